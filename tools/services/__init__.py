"""Real servers without Docker: installed once into a cache, started, watched, stopped (docs/services.md).

Belongs here: what tests and the commands of `python -m tools.services` use. Nothing of the product imports it.
"""

from tools.services.group import Services
from tools.services.instance import Instance
from tools.services.servers import SERVERS
from tools.services.servers.toxiproxy import Proxy

__all__ = ["SERVERS", "Instance", "Proxy", "Services"]
