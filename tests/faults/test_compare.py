"""The comparison of the stores that drills end with: it must see each way in which they can differ."""

import time
from pathlib import Path

import polars as pl
import pytest

from sieis_platform.reading import READING_SCHEMA
from sieis_platform.settings import Settings
from sieis_platform.stores.archive import Commit, LedgerEntry
from sieis_platform.stores.open import open_archive, open_hot
from sieis_platform.timeline import DAY_NS
from tests.faults.compare import hot_equals_archive

NOW = time.time_ns()
READINGS = pl.DataFrame(
    {"mote_id": [1, 2, 3], "timestamp": [NOW, NOW, NOW - 40 * DAY_NS], "temperature": [20.5, None, 21.0]},
    schema_overrides={"temperature": pl.Float32},
).select(
    pl.col(name).cast(kind) if name in ("mote_id", "timestamp", "temperature") else pl.lit(2.5, kind).alias(name)
    for name, kind in READING_SCHEMA.items()
)


def write_hot(settings: Settings, rows: pl.DataFrame) -> None:
    hot = open_hot(settings)
    hot.write_readings(rows)
    hot.close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of an archive that holds READINGS, the last of them long past the hot retention."""
    made = Settings(data_dir=tmp_path, _env_file=None)  # pyright: ignore[reportCallIssue]
    archive = open_archive(made)
    archive.create()
    rows = READINGS.with_columns(
        source=pl.lit("stream:one"), source_partition=pl.lit(0, pl.Int32), source_offset=pl.int_range(pl.len())
    )
    archive.append(Commit(rows, [LedgerEntry(app="topic/one/0", start=0, end=3, stored=3)], {"topic/one/0": None}))
    return made


def test_the_same_readings_are_equal_and_what_is_past_the_retention_is_not_asked_for(settings: Settings) -> None:
    write_hot(settings, READINGS)
    assert hot_equals_archive(settings) == 2


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (READINGS.head(1), "only in the archive"),
        (pl.concat([READINGS, READINGS.head(1).with_columns(mote_id=pl.lit(9, pl.Int32))]), "only in the hot store"),
        (READINGS.with_columns(temperature=pl.lit(20.5, pl.Float32)), "with other values"),
        (READINGS.with_columns(light=pl.lit(None, pl.Float32)), "with other values"),
    ],
)
def test_each_difference_is_named(settings: Settings, held: pl.DataFrame, said: str) -> None:
    write_hot(settings, held)
    with pytest.raises(AssertionError, match=said):
        hot_equals_archive(settings)
