"""The archive as an observable asset: the consumer and `sieis load` write it, Dagster looks at what they wrote.

Belongs here: its observation. Not here: checks (quality), anything that changes it.
"""

from collections.abc import Iterator

import dagster as dg

from sieis_platform.defs.archive.historical import HISTORY
from sieis_platform.defs.archive.snapshot import Snapshot
from sieis_platform.defs.failures import dagster_failures
from sieis_platform.defs.metadata import OWNERS, columns
from sieis_platform.defs.resources import PlatformResource
from sieis_platform.defs.stream.assets import TOPIC
from sieis_platform.stores.archive import ARCHIVE_SCHEMA
from sieis_platform.stores.delta import info

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


@dg.multi_observable_source_asset(
    name="observe_archive_table",
    specs=[
        dg.AssetSpec(
            ARCHIVE,
            deps=[TOPIC, HISTORY],
            description="Every reading, for ever, with the stream position or file offset it came from (Delta Lake).",
            group_name="archive",
            kinds={"deltalake"},
            owners=OWNERS,
            metadata=columns(ARCHIVE_SCHEMA, _COLUMNS),
        )
    ],
)
def archive_observation(context: dg.AssetExecutionContext, platform: PlatformResource) -> Iterator[dg.ObserveResult]:
    """Version, weight, days, and the positions of partitions and files that the archive covers; from its log alone."""
    with dagster_failures():
        archive = platform.archive()
        table = archive.table()
        weight = info(table)
        days = list(Snapshot(archive, table).rows_by_day())
        positions = {entry.app: entry.end for entry in archive.ledger()}
    context.log.info("archive version %d: %d rows in %d files", weight.version, weight.rows, weight.files)
    metadata: dict[str, dg.MetadataValue] = {
        "version": dg.MetadataValue.int(weight.version),
        "dagster/row_count": dg.MetadataValue.int(weight.rows),
        "files": dg.MetadataValue.int(weight.files),
        "bytes": dg.MetadataValue.int(weight.bytes),
        "days": dg.MetadataValue.int(len(days)),
        "positions": dg.MetadataValue.json(positions),
    }
    if days:
        metadata["first_day"] = dg.MetadataValue.text(days[0].isoformat())
        metadata["last_day"] = dg.MetadataValue.text(days[-1].isoformat())
    yield dg.ObserveResult(asset_key=ARCHIVE, metadata=metadata)


def definitions() -> dg.Definitions:
    """The archive."""
    return dg.Definitions(assets=[archive_observation])
