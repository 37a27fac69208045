"""The REST API: endpoint, service, store; one folder a domain."""

from typing import Final

PREFIX: Final = "/api/v1"
"""Where every versioned address begins. Routers carry it themselves: the route template is then the whole address."""
