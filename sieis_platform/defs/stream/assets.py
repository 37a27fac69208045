"""The stream's topics and the hot store as external assets: the consumer writes them, Dagster only knows of them.

Belongs here: what they are. Not here: anything that Dagster runs; how they are kept current (report.py).
"""

import datetime as dt
from typing import Final

import dagster as dg
import polars as pl

from sieis_platform.defs.metadata import OWNERS, columns, labels, lineage, same_columns
from sieis_platform.reading import QUANTITIES, READING_SCHEMA
from sieis_platform.settings import Settings

TOPIC: Final = dg.AssetKey("sensor_readings")
DEAD_LETTERS: Final = dg.AssetKey("dead_letters")
HOT_STORE: Final = dg.AssetKey("hot_store")

#: Materializations are what the consumer reports; a live building sends every second.
_FRESHNESS: Final = dg.FreshnessPolicy.time_window(
    warn_window=dt.timedelta(minutes=15), fail_window=dt.timedelta(hours=1)
)

_UNITS: Final = {name: quantity.unit for name, quantity in QUANTITIES.items()}
_LETTER_SCHEMA: Final = pl.Schema(
    {name: pl.String() for name in ("position", "reason", "detail", "record_time", "dead_since", "replay_of")}
    | {"key": pl.Binary(), "value": pl.Binary()}
)
_LETTER_COLUMNS: Final = {
    "position": "topic/incarnation/partition/offset of the record",
    "reason": "why it has no meaning, one word",
    "record_time": "Kafka's time of the record, UTC",
    "value": "the original bytes",
}

HOT_LINEAGE: Final = lineage(same_columns(READING_SCHEMA.names(), TOPIC))
LETTER_LINEAGE: Final = lineage({"value": [(TOPIC, name) for name in READING_SCHEMA.names()]})


def definitions(settings: Settings) -> dg.Definitions:
    """The external assets of the stream."""
    return dg.Definitions(
        assets=[
            dg.AssetSpec(
                TOPIC,
                description=f"Readings as they arrive: JSON, keyed by mote_id, {settings.kafka_partitions} partitions.",
                group_name="stream",
                kinds={"kafka"},
                owners=OWNERS,
                tags=labels("raw", "kafka"),
                freshness_policy=_FRESHNESS,
                metadata={
                    "topic": settings.kafka_topic,
                    **columns(READING_SCHEMA, {**_UNITS, "timestamp": "ISO 8601, UTC, in the message"}),
                },
            ),
            dg.AssetSpec(
                DEAD_LETTERS,
                deps=[TOPIC],
                description="Records without meaning, unchanged, with the reason in their headers (`sieis dlq list`).",
                group_name="stream",
                kinds={"kafka"},
                owners=OWNERS,
                tags=labels("raw", "kafka"),
                metadata={
                    "topic": settings.kafka_dlq_topic,
                    **columns(_LETTER_SCHEMA, _LETTER_COLUMNS),
                    **LETTER_LINEAGE,
                },
            ),
            dg.AssetSpec(
                HOT_STORE,
                deps=[TOPIC],
                description=f"The last {settings.hot_retention_days} days of readings, for live screens.",
                group_name="stream",
                kinds={"influxdb" if settings.hot_store == "influx" else "sqlite"},
                owners=OWNERS,
                tags=labels("raw", "hot"),
                freshness_policy=_FRESHNESS,
                metadata={**columns(READING_SCHEMA, {**_UNITS, "timestamp": "Unix ns, UTC"}), **HOT_LINEAGE},
            ),
        ]
    )
