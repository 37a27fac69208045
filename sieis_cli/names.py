"""The names of the parts that `sieis up` runs, as they are on the command line and in the logs; nothing else."""

from enum import StrEnum


class Name(StrEnum):
    """One part of SIEIS."""

    BROKER = "broker"
    CONSUMER = "consumer"
    SIMULATOR = "simulator"
    API = "api"
    DASHBOARD = "dashboard"
    DAGSTER = "dagster"
    DAEMON = "daemon"
    MLFLOW = "mlflow"
