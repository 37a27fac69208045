"""The archive as an observable asset: the consumer and `sieis load` write it, Dagster looks at what they wrote.

Belongs here: its observation. Not here: checks (quality), anything that changes it.
"""

import datetime as dt
from collections.abc import Iterator

import dagster as dg

from sieis_platform.defs.archive.historical import HISTORY
from sieis_platform.defs.archive.snapshot import Snapshot
from sieis_platform.defs.archive.told import told_of
from sieis_platform.defs.failures import dagster_failures
from sieis_platform.defs.metadata import OWNERS, columns, labels, lineage, preview_of, same_columns
from sieis_platform.defs.operations.keys import INBOX
from sieis_platform.defs.resources import PlatformResource
from sieis_platform.defs.stream.assets import TOPIC
from sieis_platform.reading import ARCHIVE_PARTITIONS, READING_SCHEMA
from sieis_platform.stores.archive import ARCHIVE_SCHEMA

ARCHIVE = dg.AssetKey("archive")

_COLUMNS = {
    "timestamp": "Unix ns, UTC",
    "temperature": "°C",
    "humidity": "%RH",
    "light": "lux",
    "voltage": "V",
    "source": "stream:{incarnation} or history:{file fingerprint}",
    "source_partition": "partition of the topic",
    "source_offset": "offset of the record, or byte offset of the line",
    "ingested_at": "Unix ns, UTC; of two readings with one key the later wins",
}


LINEAGE = lineage(
    {
        **same_columns(READING_SCHEMA.names(), TOPIC),
        **{name: [(TOPIC, "timestamp")] for name in ARCHIVE_PARTITIONS},
    }
)
#: The consumer's report counts (defs/stream/report.py): a flush comes every 10 minutes at the latest.
_FRESHNESS = dg.FreshnessPolicy.time_window(warn_window=dt.timedelta(minutes=30), fail_window=dt.timedelta(hours=2))


@dg.multi_observable_source_asset(
    name="observe_archive_table",
    specs=[
        dg.AssetSpec(
            ARCHIVE,
            deps=[TOPIC, HISTORY, INBOX],
            description="Every reading, for ever, with the stream position or file offset it came from (Delta Lake).",
            group_name="archive",
            kinds={"deltalake"},
            owners=OWNERS,
            tags=labels("raw", "archive"),
            freshness_policy=_FRESHNESS,
            metadata={**columns(ARCHIVE_SCHEMA, _COLUMNS), **LINEAGE},
        )
    ],
)
def archive_observation(context: dg.AssetExecutionContext, platform: PlatformResource) -> Iterator[dg.ObserveResult]:
    """Version, weight, days, and the positions of partitions and files that the archive covers: all from its log."""
    with dagster_failures():
        archive = platform.archive()
        files = archive.files()
        metadata = told_of(archive, files)
        snapshot = Snapshot(archive, files)
        with archive.reading():
            first = snapshot.rows(snapshot.recent(1)).head(5).collect()
        positions = archive.positions()
    context.log.info("archive version %s: %s rows in %s files",
                     *(metadata[name].value for name in ("version", "dagster/row_count", "files")))  # fmt: skip
    shown = {"positions": dg.MetadataValue.json(positions), "preview": preview_of(first)}
    yield dg.ObserveResult(asset_key=ARCHIVE, metadata={**metadata, **shown, **LINEAGE})


def definitions() -> dg.Definitions:
    """The archive."""
    return dg.Definitions(assets=[archive_observation])
