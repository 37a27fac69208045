"""The hot store on InfluxDB 2.7, over its HTTP API: line protocol in, Flux and annotated CSV out, all in columns.

Belongs here: everything that knows InfluxDB. Not here: which hot store an installation has (stores/open.py).
"""

from sieis_platform.stores.influx.client import InfluxClient
from sieis_platform.stores.influx.store import InfluxHotStore

__all__ = ["InfluxClient", "InfluxHotStore"]
