"""What the archive has let go of: said by the table, never less than before, and told mote by mote."""

import datetime as dt
from pathlib import Path

import polars as pl
import pytest

from sieis_platform.stores.archive import Archive, ArchiveError
from sieis_platform.stores.let_go import LetGo, record
from sieis_platform.stores.upkeep import expire

TODAY = dt.date(2026, 3, 10)


def ago(days: int) -> dt.date:
    return TODAY - dt.timedelta(days=days)


def kept(archive: Archive) -> LetGo:
    return LetGo.of(archive.files().properties)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    archive = Archive(str(tmp_path / "archive"))
    archive.create()
    return archive


def test_the_table_says_what_the_retention_takes_out_and_never_takes_it_back(archive: Archive) -> None:
    expire(archive, TODAY, None, {})
    assert (kept(archive), archive.version()) == (LetGo(), 0)
    expire(archive, TODAY, 10, {2: 3, 7: 0})
    assert kept(archive) == LetGo(ago(11), {2: ago(4), 7: None})
    version = archive.version()
    expire(archive, TODAY, 10, {2: 3, 7: 0})
    assert archive.version() == version
    expire(archive, TODAY, 365, {})
    assert kept(archive) == LetGo(ago(11), {2: ago(4), 7: ago(366)})
    expire(archive, TODAY, 5, {9: 0})
    assert kept(archive) == LetGo(ago(6), {2: ago(4), 7: ago(6), 9: ago(11)})


def test_a_day_is_wholly_gone_once_no_mote_is_kept_of_it(archive: Archive) -> None:
    assert LetGo(None, {2: ago(4)}).wholly_until is None
    assert LetGo(ago(4), {2: None}).wholly_until is None
    assert LetGo(ago(4), {2: ago(9)}).wholly_until == ago(9)
    assert LetGo(ago(4)).wholly_until == ago(4)
    assert LetGo(ago(4), {2: ago(1)}).reaches(ago(1))
    assert not LetGo(ago(4), {2: ago(1)}).reaches(TODAY)
    assert not LetGo().reaches(dt.date.min)


def test_rows_are_told_by_mote_and_day_and_the_building_is_none_of_them() -> None:
    rows = pl.DataFrame(
        [(mote, str(ago(days))) for mote in (0, 1, 2, 7) for days in (3, 4, 11)],
        {"mote_id": pl.Int32(), "date": pl.String()},
        orient="row",
    )
    found = rows.filter(LetGo(ago(11), {2: ago(4), 7: None}).rows(pl.col("date")))
    assert found.rows() == [(1, str(ago(11))), (2, str(ago(4))), (2, str(ago(11)))]
    assert rows.filter(LetGo().rows(pl.col("date"))).is_empty()


def test_a_record_that_is_none_is_refused(archive: Archive) -> None:
    record(archive, LetGo(ago(4), {2: None}))
    assert LetGo.decoded(kept(archive).text()) == kept(archive)
    with pytest.raises(ArchiveError, match="what else writes to it"):
        LetGo.decoded("yesterday")
