"""The code location that Dagster loads (workspace.yaml). Belongs here: nothing but the call that assembles it."""

import dagster as dg

from sieis_platform.defs.assembly import build_definitions
from sieis_platform.settings import Settings
from sieis_platform.telemetry import silence


@dg.definitions
def defs() -> dg.Definitions:
    """The definitions of the installation that the environment describes."""
    silence()
    return build_definitions(Settings())  # pyright: ignore[reportCallIssue] - every field has a default
