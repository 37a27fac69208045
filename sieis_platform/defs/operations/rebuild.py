"""The job that fills the hot store again from the archive, after it was lost or moved.

Belongs here: its configuration and what it tells. Not here: the rebuild (sieis_platform.rebuild).
"""

import datetime as dt
from typing import NamedTuple

import dagster as dg
from pydantic import Field

from sieis_platform.defs.failures import dagster_failures
from sieis_platform.defs.partitions import today
from sieis_platform.defs.resources import PlatformResource
from sieis_platform.defs.stream.assets import HOT_LINEAGE, HOT_STORE
from sieis_platform.defs.stream.hot import told_of_hot
from sieis_platform.rebuild import rebuild_hot
from sieis_platform.settings import Settings


class RebuildConfig(dg.Config):
    """Which days to write again."""

    first_day: str = Field("", description="First day, YYYY-MM-DD; empty: as far back as the hot store keeps.")
    last_day: str = Field("", description="Last day, YYYY-MM-DD; empty: today.")


class Span(NamedTuple):
    """The days of one rebuild; hourly aggregates may begin earlier than the rest."""

    first: dt.date
    last: dt.date
    hourly_first: dt.date


def span(settings: Settings, config: RebuildConfig) -> Span:
    """The days of `config`: as far back as each part is kept where it names no first one.

    Raises: dg.Failure where they are no days, or none between them.
    """
    try:
        named = dt.date.fromisoformat(config.first_day) if config.first_day else None
        last = dt.date.fromisoformat(config.last_day) if config.last_day else today()
    except ValueError as error:
        raise dg.Failure(f"first_day and last_day are days like 2026-02-19: {error}", allow_retries=False) from error
    first = named or today() - dt.timedelta(settings.hot_retention_days)
    if last < first:
        raise dg.Failure(f"there is no day between {first} and {last}", allow_retries=False)
    hourly = today() - dt.timedelta(settings.hot_hourly_retention_days)
    return Span(first, last, named or min(first, hourly))


@dg.op(pool="hot", description="Write the archive's readings and the marts' aggregates of some days to the hot store.")
def rebuild_hot_store_op(context: dg.OpExecutionContext, platform: PlatformResource, config: RebuildConfig) -> None:
    """Nothing is removed; the same keys overwrite."""
    first, last, hourly_first = span(platform.settings(), config)
    with dagster_failures(), platform.hot() as hot:
        summary = rebuild_hot(
            hot,
            platform.archive(),
            platform.marts(),
            first,
            last,
            hourly_first=hourly_first,
            on_day=lambda day, rows: context.log.info("%s: %d readings", day, rows),
        )
        told = told_of_hot(hot)
    context.log_event(
        dg.AssetMaterialization(
            HOT_STORE,
            metadata={
                **told,
                "first_day": first.isoformat(),
                "last_day": last.isoformat(),
                "readings_written": summary.readings_written,
                "beyond_retention": summary.beyond_retention,
                "refused": summary.refused,
                "aggregates_written": summary.aggregates_written,
                "changed_meanwhile": summary.changed_meanwhile,
                **HOT_LINEAGE,
            },
        )
    )


@dg.job(
    description="Fill the hot store from archive and marts: the days it keeps, or those named. Again changes nothing.",
    tags={"dagster/max_runtime": "21600"},
)
def rebuild_hot_store() -> None:
    """The one step."""
    rebuild_hot_store_op()


def definitions() -> dg.Definitions:
    """The job."""
    return dg.Definitions(jobs=[rebuild_hot_store])
