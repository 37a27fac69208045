"""The stream's topics and the hot store as external assets: the consumer writes them, Dagster only knows of them.

Belongs here: what they are. Not here: anything that Dagster runs.
"""

import dagster as dg

from sieis_platform.defs.metadata import OWNERS, columns
from sieis_platform.reading import READING_SCHEMA
from sieis_platform.settings import Settings

TOPIC = dg.AssetKey("sensor_readings")
DEAD_LETTERS = dg.AssetKey("dead_letters")
HOT_STORE = dg.AssetKey("hot_store")


def definitions(settings: Settings) -> dg.Definitions:
    """The external assets of the stream."""
    return dg.Definitions(
        assets=[
            dg.AssetSpec(
                TOPIC,
                description="Readings as they arrive: JSON, keyed by mote_id, six partitions.",
                group_name="stream",
                kinds={"kafka"},
                owners=OWNERS,
                metadata={"topic": settings.kafka_topic, **columns(READING_SCHEMA)},
            ),
            dg.AssetSpec(
                DEAD_LETTERS,
                deps=[TOPIC],
                description="Records without meaning, unchanged, with the reason in their headers (`sieis dlq list`).",
                group_name="stream",
                kinds={"kafka"},
                owners=OWNERS,
                metadata={"topic": settings.kafka_dlq_topic},
            ),
            dg.AssetSpec(
                HOT_STORE,
                deps=[TOPIC],
                description=f"The last {settings.hot_retention_days} days of readings, for live screens.",
                group_name="stream",
                kinds={"sqlite"},
                owners=OWNERS,
                metadata=columns(READING_SCHEMA),
            ),
        ]
    )
