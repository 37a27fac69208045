"""Derived tables: windows replaced as a whole, names refused, writers side by side."""

import datetime as dt
import threading
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from sieis_platform.stores.marts import MartError, Marts, MartUnavailableError

FIRST = dt.date(2026, 2, 1)


def days(*numbers: int, value: float = 1.0) -> pl.DataFrame:
    """A row for each day of February 2026."""
    return pl.DataFrame(
        {
            "date": [f"2026-02-{number:02}" for number in numbers],
            "value": [value + number for number in numbers],
        },
        schema={"date": pl.String, "value": pl.Float64},
    )


def day(number: int) -> dt.date:
    return dt.date(2026, 2, number)


@pytest.fixture
def marts(tmp_path: Path) -> Marts:
    return Marts(str(tmp_path / "marts"))


def content(marts: Marts, table: str = "rollup") -> pl.DataFrame:
    return marts.scan(table).sort("date").select("date", "value").collect()


def test_looking_at_a_mart_that_is_not_there_makes_nothing(marts: Marts) -> None:
    assert not marts.exists("rollup")
    for look in (marts.scan, marts.version, marts.info):
        with pytest.raises(MartError, match="there is no mart rollup"):
            look("rollup")
    assert not Path(marts.root).exists()


def test_folders_that_are_no_tables_are_not_named(marts: Marts) -> None:
    assert marts.tables() == []
    marts.append("rollup", days(1))
    for other in ("notes", "half_made/_delta_log", "Upper"):
        Path(marts.root, other).mkdir(parents=True)
    assert marts.tables() == ["rollup"]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "../archive",
        "a/b",
        "Upper",
        "1st",
        "a b",
        "a-b",
        "a\n",
        "é",
        "a" * 101,
        "..",
    ],
)
def test_names_that_are_not_table_names_are_refused(marts: Marts, name: str) -> None:
    for use in (marts.exists, marts.scan, lambda table: marts.append(table, days(1))):
        with pytest.raises(MartError, match="not the name of a mart"):
            use(name)
    assert not Path(marts.root).exists()


def test_a_window_is_replaced_and_the_rest_stays(marts: Marts) -> None:
    marts.replace_days("rollup", days(1, 2, 3, 4), FIRST, day(4))
    version = marts.replace_days("rollup", days(2, 3, value=100.0), day(2), day(3))
    expected = pl.concat([days(1), days(2, 3, value=100.0), days(4)])
    assert_frame_equal(content(marts), expected)
    assert marts.version("rollup") == version


def test_replacing_twice_changes_nothing(marts: Marts) -> None:
    for _ in range(2):
        marts.replace_days("rollup", days(1, 2), FIRST, day(2))
        assert_frame_equal(content(marts), days(1, 2))


def test_days_of_the_window_without_rows_are_cleared(marts: Marts) -> None:
    marts.replace_days("rollup", days(1, 2, 3), FIRST, day(3))
    marts.replace_days("rollup", days(2, value=5.0), FIRST, day(2))
    assert_frame_equal(content(marts), pl.concat([days(2, value=5.0), days(3)]))
    marts.replace_days("rollup", days(), day(2), day(3))
    assert content(marts).is_empty()
    assert marts.info("rollup").files == 0


def test_a_first_write_without_rows_makes_an_empty_mart(marts: Marts) -> None:
    marts.replace_days("rollup", days(), FIRST, FIRST)
    assert_frame_equal(content(marts), days())


def test_a_replacement_is_one_commit(marts: Marts) -> None:
    before = marts.replace_days("rollup", days(1, 2), FIRST, day(2))
    kept = pl.scan_delta(f"{marts.root}/rollup", version=before)
    assert marts.replace_days("rollup", days(1, value=9.0), FIRST, day(2)) == before + 1
    assert_frame_equal(kept.sort("date").select("date", "value").collect(), days(1, 2))


@pytest.mark.parametrize(
    ("frame", "complaint"),
    [
        (days(5), "lie outside"),
        (days(1).with_columns(date=pl.lit(None, pl.String)), "lie outside"),
        (days(1).drop("date"), "need the column `date`"),
        (days(1).with_columns(pl.col("date").str.to_date()), "as text"),
        (days(1).with_columns(nothing=None), "have no type"),
    ],
)
def test_frames_that_do_not_belong_into_the_window_are_refused(
    marts: Marts, frame: pl.DataFrame, complaint: str
) -> None:
    marts.replace_days("rollup", days(1), FIRST, FIRST)
    with pytest.raises(MartError, match=complaint):
        marts.replace_days("rollup", frame, FIRST, day(4))
    assert_frame_equal(content(marts), days(1))


def test_an_inverted_window_is_refused(marts: Marts) -> None:
    with pytest.raises(MartError, match="is empty"):
        marts.replace_days("rollup", days(), day(2), day(1))


def test_columns_may_be_added_and_left_out(marts: Marts) -> None:
    marts.replace_days("rollup", days(1), FIRST, FIRST)
    marts.replace_days("rollup", days(2).with_columns(extra=pl.lit("x")), day(2), day(2))
    marts.replace_days("rollup", days(3), day(3), day(3))
    marts.append("rollup", days(4).with_columns(extra=pl.lit("y")))
    assert marts.scan("rollup").sort("date").collect()["extra"].to_list() == [
        None,
        "x",
        None,
        "y",
    ]


def test_a_column_that_changes_its_type_is_refused_for_good(marts: Marts) -> None:
    marts.replace_days("rollup", days(1), FIRST, FIRST)
    with pytest.raises(MartError, match="does not fit"):
        marts.append("rollup", days(2).with_columns(value=pl.lit("text")))
    assert_frame_equal(content(marts), days(1))


def test_replacing_the_whole_mart_replaces_its_columns(marts: Marts) -> None:
    model = pl.DataFrame({"name": ["anomaly"], "version": [1]})
    marts.replace("model", model)
    marts.replace("model", pl.DataFrame({"name": ["anomaly"], "threshold": [0.5]}))
    assert_frame_equal(
        marts.scan("model").collect(),
        pl.DataFrame({"name": ["anomaly"], "threshold": [0.5]}),
    )


def test_the_weight_comes_from_the_log(marts: Marts) -> None:
    marts.replace_days("rollup", days(1, 2, 3), FIRST, day(3))
    info = marts.info("rollup")
    files = list(Path(marts.root, "rollup").glob("date=*/*.parquet"))
    assert (info.files, info.rows, info.bytes) == (
        3,
        3,
        sum(file.stat().st_size for file in files),
    )
    assert info.version == marts.version("rollup")


def test_first_writers_of_different_days_side_by_side_all_arrive(marts: Marts) -> None:
    start = threading.Barrier(4)
    errors: list[BaseException] = []

    def write(number: int) -> None:
        try:
            start.wait()
            for round_ in range(5):
                marts.replace_days(
                    "rollup",
                    days(number, value=float(round_)),
                    day(number),
                    day(number),
                )
        except BaseException as error:  # noqa: BLE001 - asserted on below, in the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert_frame_equal(content(marts), days(1, 2, 3, 4, value=4.0))


def test_a_full_disk_is_named_changes_nothing_and_passes(small_disk: Any) -> None:
    marts = Marts(str(small_disk.folder / "marts"))
    marts.replace_days("rollup", days(1), FIRST, FIRST)
    noise = pl.DataFrame(
        {
            "date": "2026-02-01",
            "value": pl.Series(range(300_000), dtype=pl.Float64).shuffle(1),
        }
    )
    with pytest.raises(MartUnavailableError, match=r"disk .* is full"):
        marts.replace_days("rollup", noise, FIRST, FIRST)
    assert_frame_equal(content(marts), days(1))
    small_disk.grow(64 * 1024)
    marts.replace_days("rollup", noise, FIRST, FIRST)
    assert content(marts).height == 300_000


def test_a_file_in_place_of_the_root_is_named(tmp_path: Path) -> None:
    (tmp_path / "marts").write_text("")
    with pytest.raises(MartError, match="cannot be made or opened"):
        Marts(str(tmp_path / "marts")).append("rollup", days(1))


def test_merging_replaces_the_rows_of_its_keys_and_adds_the_others(tmp_path: Path) -> None:
    marts = Marts(str(tmp_path))
    first = pl.DataFrame({"date": ["2026-05-01", "2026-05-01"], "run": ["a", "b"], "value": [1, 2]})
    marts.merge("history", first, ["date", "run"])
    later = pl.DataFrame({"date": ["2026-05-01", "2026-05-02"], "run": ["b", "b"], "value": [20, 3]})
    for _ in range(2):
        marts.merge("history", later, ["date", "run"])
    assert sorted(marts.scan("history").collect().rows()) == [
        ("2026-05-01", "a", 1),
        ("2026-05-01", "b", 20),
        ("2026-05-02", "b", 3),
    ]


def test_merging_by_a_name_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MartError, match="cannot have columns named 'a OR true'"):
        Marts(str(tmp_path)).merge("history", pl.DataFrame({"a": [1]}), ["a OR true"])
