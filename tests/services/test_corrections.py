"""`sieis correct` on InfluxDB, S3 and PostgreSQL: both stores and what is derived follow, and all of it comes back."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from sieis_platform.analysis.ledger import audit_archive
from sieis_platform.defs.rollups.assets import MARTS
from sieis_platform.reading import FIELDS
from sieis_platform.settings import Settings
from sieis_platform.stores.corrected import CorrectionImages
from sieis_platform.stores.hot import AGGREGATE_SCHEMA, Period
from sieis_platform.stores.open import open_archive, open_marts
from sieis_platform.stores.rewrite import POSITION, ROW_SCHEMA
from sieis_platform.stores.upkeep import vacuum
from tests.faults.compare import hot_equals_archive
from tests.faults.harness import Platform
from tests.installation import Installation
from tests.services.derived import on_servers, with_dagster
from tests.unit.sieis_platform.history_file import day, hot_rows, write
from tools.services.instance import Instance

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]

A_DAY = 96
DAYS = [str(day(number)) for number in (6, 5, 4, 3, 2, 1)]
#: From noon of one day to six in the morning of the next but one: a whole day and parts of two.
FROM, TO, CORRECTED = f"{day(4)}T12:00", f"{day(2)}T06:00", [str(day(number)) for number in (4, 3, 2)]
ROWS = A_DAY // 2 + A_DAY + A_DAY // 4


class Site(NamedTuple):
    """The processes' side of an installation, and Dagster's."""

    processes: Platform
    derived: Installation

    @property
    def settings(self) -> Settings:
        return self.processes.settings


@pytest.fixture
def site(
    influxdb: Instance, minio: Instance, postgres: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    """Six days of four motes, loaded by `sieis load` and derived as the sensor asked for."""
    file = write(tmp_path / "readings.txt", A_DAY)
    processes = on_servers([influxdb, minio], postgres, tmp_path, monkeypatch, data_file=file)
    done = processes.run("load", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    with with_dagster(processes.settings) as derived:
        assert derived.days_asked_for() == DAYS
        yield Site(processes, derived)
    processes.kill_all()


class Everything(NamedTuple):
    """All that a correction may change, and when each partition was made."""

    archive: pl.DataFrame
    hot: pl.DataFrame
    marts: dict[Period, pl.DataFrame]
    hot_aggregates: dict[Period, pl.DataFrame]
    files: dict[Period, dict[str, set[str]]]
    made: dict[Period, dict[str, int]]


def everything(site: Site) -> Everything:
    """What there is now; both stores agree, the ledger is clean, the hot store shows the marts' aggregates."""
    rows = open_archive(site.settings).scan_all().select(ROW_SCHEMA.names()).sort(*POSITION).collect()
    assert audit_archive(open_archive(site.settings)).findings == []
    assert hot_equals_archive(site.settings) == rows.height
    now = Everything(
        rows,
        hot_rows(site.settings),
        {period: site.derived.mart(mart) for period, mart in MARTS.items()},
        {period: site.derived.hot_aggregates(period) for period in MARTS},
        {period: site.derived.mart_files(mart) for period, mart in MARTS.items()},
        {period: site.derived.made(mart) for period, mart in MARTS.items()},
    )
    for period in MARTS:
        shown = now.marts[period].select(AGGREGATE_SCHEMA.names())
        assert_frame_equal(now.hot_aggregates[period], shown, check_exact=True)
    return now


def correct(site: Site, *command: str) -> dict:
    done = site.processes.run("correct", *command, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def only_corrected_days_are_new(before: Everything, after: Everything) -> None:
    """Of every period exactly the corrected days were made again, in Dagster's record and in the marts' files."""
    for period in MARTS:
        made = {date for date, at in after.made[period].items() if at != before.made[period][date]}
        assert sorted(made) == CORRECTED
        written = {date for date, paths in after.files[period].items() if paths != before.files[period][date]}
        assert sorted(written) == CORRECTED
        others = ~pl.col("date").is_in(CORRECTED)
        assert_frame_equal(after.marts[period].filter(others), before.marts[period].filter(others), check_exact=True)


def vacuumed(site: Site) -> None:
    """The nightly job, then what it would leave for a week: no file and no log entry of an older version is left."""
    site.derived.run("vacuum")
    archive, marts = open_archive(site.settings), open_marts(site.settings)
    cleaned = vacuum(archive, 0)
    assert cleaned.files > 0
    assert cleaned.log_entries > 0
    for table in marts.tables():
        marts.tidy(table, 0)


def same(before: Everything, after: Everything) -> None:
    """The same rows and aggregates everywhere, to the last bit."""
    assert_frame_equal(after.archive, before.archive, check_exact=True)
    assert_frame_equal(after.hot, before.hot, check_exact=True)
    for period in MARTS:
        assert_frame_equal(after.marts[period], before.marts[period], check_exact=True)
        assert_frame_equal(after.hot_aggregates[period], before.hot_aggregates[period], check_exact=True)


WHAT = {"delete": ["delete"], "null": ["null", "--field", "temperature", "--field", "light"]}


@pytest.mark.parametrize("kind", WHAT)
def test_a_correction_changes_its_days_everywhere_and_its_undoing_puts_all_back(site: Site, kind: str) -> None:
    before = everything(site)
    concerned = ["--mote", "2", "--from", FROM, "--to", TO, "--reason", "it lay on a heater"]
    done = correct(site, *WHAT[kind], *concerned)
    assert (done["status"], done["rows"], done["days"]) == ("done", ROWS, CORRECTED)
    assert site.derived.days_asked_for() == CORRECTED
    after = everything(site)
    only_corrected_days_are_new(before, after)

    images = CorrectionImages(open_marts(site.settings)).of(done["id"])
    assert_frame_equal(images.sort(*POSITION), before.archive.join(images.select(POSITION), on=POSITION, how="semi"))
    hit = pl.col("mote_id") == 2
    one_day = {period: frame.filter(hit, date=CORRECTED[1]) for period, frame in after.marts.items()}
    if kind == "delete":
        assert_frame_equal(after.archive, before.archive.join(images, on=POSITION, how="anti"), check_exact=True)
        assert after.hot.height == before.hot.height - ROWS
        # Nothing is left of a day that is gone altogether, in the marts nor in what InfluxDB shows.
        assert [frame.height for frame in one_day.values()] == [0, 0]
    else:
        taken = after.archive.join(images.select(POSITION), on=POSITION, how="semi")
        assert taken.select("temperature", "light").null_count().row(0) == (ROWS, ROWS)
        kept = [name for name in after.archive.columns if name not in ("temperature", "light")]
        assert_frame_equal(after.archive.select(kept), before.archive.select(kept), check_exact=True)
        assert after.hot.height == before.hot.height
        assert after.hot.select(FIELDS).null_count().row(0) == (ROWS, 0, ROWS, 0)
        for frame in one_day.values():
            assert frame.select("temp_avg", "light_max").null_count().row(0) == (frame.height, frame.height)
            assert frame["record_count"].sum() == A_DAY
            assert frame["hum_avg"].null_count() == 0

    vacuumed(site)
    # Without a horizon the vacuum took commits that the sensor had not read: it has every day made once more.
    site.derived.tick()
    tidy = everything(site)
    same(after, tidy)
    undone = correct(site, "undo", done["id"])
    assert (undone["status"], undone["days"]) == ("undone", CORRECTED)
    assert site.derived.days_asked_for() == CORRECTED
    again = everything(site)
    same(before, again)  # every row at its own position with its own values and moment, every aggregate to the last bit
    only_corrected_days_are_new(tidy, again)

    assert correct(site, "undo", done["id"])["status"] == "undone"  # twice is like once
    assert site.derived.days_asked_for() == []
    assert site.processes.verify()["findings"] == []
