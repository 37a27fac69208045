"""Hot store and archive as one: no row twice, none missing, in order, page by page, and without the hot store."""

from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from sieis_platform.reading import READING_SCHEMA
from sieis_platform.stores.archive import Archive, Commit, LedgerEntry
from sieis_platform.stores.federated import Cursor, readings
from sieis_platform.stores.sqlite import SqliteHotStore
from sieis_platform.timeline import DAY_NS

NOW = 20_504 * DAY_NS
SPLIT = NOW - 30 * DAY_NS
MINUTE = 60 * 10**9


def rows(*keys: tuple[int, int], temperature: float = 20.0) -> pl.DataFrame:
    return pl.DataFrame(
        [(mote, ns, temperature, None, None, None) for mote, ns in keys],
        schema=READING_SCHEMA,
        orient="row",
    )


def archived(archive: Archive, frame: pl.DataFrame) -> None:
    archive.create()
    position = archive.position("test") or 0
    lineage = frame.with_columns(
        source=pl.lit("test"),
        source_partition=pl.lit(0, pl.Int32),
        source_offset=pl.int_range(position, position + frame.height, dtype=pl.Int64),
    )
    entry = LedgerEntry(app="test", start=position, end=position + frame.height, stored=frame.height)
    archive.append(Commit(lineage, [entry], {"test": position or None}))


@pytest.fixture
def hot(tmp_path: Path) -> SqliteHotStore:
    return SqliteHotStore(tmp_path / "hot.sqlite", retention_days=None)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(str(tmp_path / "archive"))


def test_nothing_anywhere_is_an_empty_answer(hot: SqliteHotStore, archive: Archive) -> None:
    found = readings(hot, archive, 0, NOW, hot_from_ns=SPLIT)
    assert_frame_equal(found.frame, pl.DataFrame(schema=READING_SCHEMA))
    assert found.sources == ()
    assert found.sources.degraded == ""


def test_each_store_answers_for_its_part_and_no_row_comes_twice(hot: SqliteHotStore, archive: Archive) -> None:
    everything = rows(*[(mote, SPLIT + i * MINUTE) for i in range(-3, 3) for mote in (1, 2)])
    archived(archive, everything)
    hot.write_readings(everything)
    frame, sources = readings(hot, archive, 0, NOW, hot_from_ns=SPLIT)
    assert_frame_equal(frame, everything)
    assert sources == ("archive", "hot")
    assert readings(hot, archive, SPLIT, NOW, hot_from_ns=SPLIT).sources == ("hot",)
    assert readings(hot, archive, 0, SPLIT, hot_from_ns=SPLIT).sources == ("archive",)


def test_what_no_flush_has_archived_yet_is_there(hot: SqliteHotStore, archive: Archive) -> None:
    archived(archive, rows((1, SPLIT - MINUTE)))
    hot.write_readings(rows((1, NOW - 1)))
    assert readings(hot, archive, 0, NOW, hot_from_ns=SPLIT).frame["timestamp"].to_list() == [SPLIT - MINUTE, NOW - 1]


def test_without_hot_store_the_archive_answers_alone_and_says_so(tmp_path: Path, archive: Archive) -> None:
    everything = rows((1, SPLIT - MINUTE), (1, SPLIT), (2, NOW - MINUTE))
    archived(archive, everything)
    (tmp_path / "hot.sqlite").write_bytes(b"broken" * 1000)
    broken = SqliteHotStore(tmp_path / "hot.sqlite")
    found = readings(broken, archive, 0, NOW, hot_from_ns=SPLIT)
    assert_frame_equal(found.frame, everything)
    assert found.sources == ("archive",)
    assert "hot.sqlite" in found.sources.degraded
    page = readings(broken, archive, 0, NOW, limit=1, hot_from_ns=SPLIT, after=Cursor(SPLIT, 1))
    assert page.frame.rows() == everything[2:].rows()


def test_a_hot_store_that_begins_late_is_completed_from_the_archive(hot: SqliteHotStore, archive: Archive) -> None:
    everything = rows(*[(1, SPLIT + day * DAY_NS) for day in range(-1, 5)])
    archived(archive, everything)
    hot.write_readings(everything[4:])  # the file was lost, and refilled by the stream since day 3
    found = readings(hot, archive, 0, NOW, hot_from_ns=SPLIT)
    assert_frame_equal(found.frame, everything)
    assert found.sources == ("archive", "hot")
    assert_frame_equal(readings(hot, archive, 0, NOW, limit=4, hot_from_ns=SPLIT).frame, everything[:4])
    assert_frame_equal(
        readings(hot, archive, SPLIT, NOW, limit=4, hot_from_ns=SPLIT).frame,
        everything[1:5],
    )


def test_the_last_of_conflicting_readings_wins_in_both(hot: SqliteHotStore, archive: Archive) -> None:
    keys = [(1, SPLIT - MINUTE), (1, SPLIT + MINUTE)]
    for value in (1.0, 2.0):
        archived(archive, rows(*keys, temperature=value))
        hot.write_readings(rows(*keys, temperature=value))
    assert readings(hot, archive, 0, NOW, hot_from_ns=SPLIT).frame["temperature"].to_list() == [2.0, 2.0]


@st.composite
def cases(draw: st.DrawFn) -> tuple:
    ticks = st.builds(
        lambda days, ns: SPLIT + days * DAY_NS + ns,
        st.integers(-9, 9),
        st.integers(-1, 1),
    )
    keys = draw(
        st.lists(
            st.tuples(st.sampled_from([1, 2, 3, 54]), ticks),
            unique=True,
            min_size=1,
            max_size=40,
        )
    )
    start, end = sorted([draw(ticks), draw(ticks)])
    return (
        keys,
        start,
        end,
        draw(st.none() | st.lists(st.sampled_from([1, 2, 54]))),
        draw(st.integers(1, 5)),
    )


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases())
def test_page_by_page_gives_every_row_once_in_order(tmp_path_factory: pytest.TempPathFactory, case: tuple) -> None:
    keys, start, end, motes, limit = case
    folder = tmp_path_factory.mktemp("federated")
    hot = SqliteHotStore(folder / "hot.sqlite", retention_days=None)
    archive = Archive(str(folder / "archive"))
    archived(archive, rows(*[key for key in keys if key[1] < SPLIT + 2 * DAY_NS]))
    hot.write_readings(rows(*[key for key in keys if key[1] >= SPLIT]))
    expected = sorted(
        [key for key in keys if start <= key[1] < end and (motes is None or key[0] in motes)],
        key=lambda key: key[::-1],
    )
    assert_frame_equal(
        readings(hot, archive, start, end, motes, hot_from_ns=SPLIT).frame,
        rows(*expected),
    )
    pages: list[tuple[int, int]] = []
    after = None
    while True:
        frame = readings(hot, archive, start, end, motes, limit, SPLIT, after=after).frame
        assert frame.height <= limit
        if frame.is_empty():
            break
        pages += frame.select("mote_id", "timestamp").rows()
        assert len(pages) <= len(expected), "a page came twice"
        after = Cursor(frame["timestamp"][-1], frame["mote_id"][-1])
    assert pages == expected
    hot.close()
