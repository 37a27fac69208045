"""What tests of several packages share: the real readings, in dataset time."""

import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import polars as pl
import pytest
import structlog

from sieis_platform.reading import READING_SCHEMA

DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With SIEIS_TEST_REQUIRE=1 a skipped test has failed: where everything is there, a skip would be a hole."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("SIEIS_TEST_REQUIRE") == "1":
        report.outcome = "failed"
        report.longrepr = f"SIEIS_TEST_REQUIRE=1, and {item.nodeid} was skipped: {report.longrepr}"
    return report


@pytest.fixture(scope="session", autouse=True)
def loggers_are_not_frozen() -> Iterator[None]:
    """A command run in this process configures the logs for good: loggers used then would never be captured again."""
    configure = structlog.configure
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            structlog, "configure", lambda **given: configure(**{**given, "cache_logger_on_first_use": False})
        )
        yield


@pytest.fixture(autouse=True)
def no_instance_of_an_earlier_test() -> Iterator[None]:
    """Dagster keeps the storage of the instance in use in a variable of the process.

    Instances that end in another order than they began leave a dead one there, which definitions loaded later ask.
    """
    if "dagster" not in sys.modules:
        yield
        return
    from dagster._core.storage.defs_state.base import set_defs_state_storage

    with set_defs_state_storage(None):
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real data."""
    if not DATA.is_dir():
        pytest.skip(f"the real data is not here ({DATA})")
    return DATA


@pytest.fixture(scope="session")
def real_readings(real_data: Path) -> pl.DataFrame:
    """The 280,828 readings of the real file (READING_SCHEMA), read without the project's own parser."""
    columns = ("date", "time", "epoch", "mote_id", "temperature", "humidity", "light", "voltage")
    raw = pl.read_csv(
        real_data / "intel_lab" / "data.txt.gz",
        separator=" ",
        has_header=False,
        new_columns=columns,
        schema_overrides={"time": pl.String},
    )
    moment = pl.concat_str("date", "time", separator=" ").str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="ns")
    readings = raw.select("mote_id", moment.cast(pl.Int64).alias("timestamp"), *columns[4:])
    return readings.select(pl.col(name).cast(kind) for name, kind in READING_SCHEMA.items())
