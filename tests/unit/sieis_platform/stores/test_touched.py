"""Which days a commit touched: appends, deletes, rewrites, compaction, several writers, a log cleaned of its past."""

import datetime as dt
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import obstore
import polars as pl
import pytest
from pydantic import SecretStr

from sieis_platform.reading import READING_SCHEMA
from sieis_platform.settings import Settings
from sieis_platform.stores.archive import Archive, Commit
from sieis_platform.stores.log import CommitLog, LogError, LogUnavailableError
from sieis_platform.stores.open import open_archive
from sieis_platform.stores.rewrite import Scope, remove
from sieis_platform.stores.s3 import make_bucket
from sieis_platform.stores.since import Mark
from sieis_platform.stores.touched import Touched, touched_days
from sieis_platform.stores.upkeep import expire
from sieis_platform.timeline import DAY_NS
from tools.services import Services
from tools.services.instance import Instance

DAYS = [dt.date(2026, 2, day) for day in (1, 2, 3, 4)]


def rows(day: dt.date, motes: int = 2, source: str = "stream:a") -> pl.DataFrame:
    start = (day - dt.date(1970, 1, 1)).days * DAY_NS
    readings = [
        (mote, start + i * 1_000_000_000, 20.0, 40.0, 100.0, 2.7) for mote in range(1, motes + 1) for i in range(3)
    ]
    return pl.DataFrame(readings, schema=READING_SCHEMA, orient="row").with_columns(
        pl.lit(source).alias("source"),
        pl.lit(0, pl.Int32).alias("source_partition"),
        pl.int_range(pl.len(), dtype=pl.Int64).alias("source_offset"),
    )


def append(archive: Archive, *days: dt.date) -> int:
    return archive.append(Commit(pl.concat([rows(day) for day in days]), [], {}))


@pytest.fixture(scope="module")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    with Services.start(["minio"], root=tmp_path_factory.mktemp("minio")) as services:
        yield services["minio"]


def on_s3(instance: Instance) -> Settings:
    """An installation whose archive lies in a new bucket."""
    name = f"touched-{uuid.uuid4().hex[:12]}"
    settings = Settings(
        archive_uri=f"s3://{name}/some/readings",
        s3_endpoint_url=instance.address,
        s3_access_key_id=instance.credentials["access_key"],
        s3_secret_access_key=SecretStr(instance.credentials["secret_key"]),
        s3_allow_http=True,
    )
    make_bucket(settings, name)
    return settings


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.services)])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Archive]:
    """An archive with a row for each mote of three days, one commit a day."""
    settings = Settings(data_dir=tmp_path)
    if request.param == "s3":
        settings = on_s3(request.getfixturevalue("minio"))
    made = open_archive(settings)
    made.create()
    for day in DAYS[:3]:
        append(made, day)
    return made


def newest(archive: Archive) -> Mark:
    return touched_days(archive, None).mark


def test_from_the_beginning_every_day_with_the_version_that_wrote_it_last(archive: Archive) -> None:
    append(archive, DAYS[0])
    found = touched_days(archive, None)
    assert found.days == {DAYS[0]: 4, DAYS[1]: 2, DAYS[2]: 3}
    assert (found.mark.version, found.gap) == (4, None)


def test_since_a_mark_only_what_came_after_it(archive: Archive) -> None:
    mark = newest(archive)
    assert touched_days(archive, mark) == Touched(mark, {})
    append(archive, DAYS[1], DAYS[3])
    assert touched_days(archive, mark).days == {DAYS[1]: 4, DAYS[3]: 4}


def test_compaction_touches_nothing(archive: Archive) -> None:
    append(archive, DAYS[0])
    mark = newest(archive)
    assert archive.table().optimize.compact()["numFilesRemoved"] > 0
    found = touched_days(archive, mark)
    assert found.mark.version == mark.version + 1
    assert found.days == {}


def test_deletes_and_updates_touch_their_days_alone(archive: Archive) -> None:
    mark = newest(archive)
    archive.table().delete("day = '02'")  # whole files: nothing is added
    assert touched_days(archive, mark).days == {DAYS[1]: 4}
    archive.table().delete(f"mote_id = 1 AND timestamp < {(DAYS[0] - dt.date(1970, 1, 1)).days * DAY_NS + 1}")
    archive.table().update(updates={"light": "NULL"}, predicate="day = '03' AND mote_id = 2")
    assert touched_days(archive, mark).days == {DAYS[1]: 4, DAYS[0]: 5, DAYS[2]: 6}


def test_what_the_retention_lets_go_of_touches_nothing_but_what_else_is_removed_does(archive: Archive) -> None:
    mark = newest(archive)
    assert expire(archive, DAYS[2], 1, {}) == 6  # the first day; later ones stay
    assert expire(archive, DAYS[2], None, {1: 0, 2: 0}) == 0
    found = touched_days(archive, mark)
    let_go = mark.version + 3  # what is let go is said first, in a commit of its own; the second call lets nothing go
    assert (found.mark.version, found.days) == (let_go, {})
    assert remove(archive, Scope.day(DAYS[1], [1]), reason="a mistake") == 3
    assert touched_days(archive, mark).days == {DAYS[1]: let_go + 1}


@pytest.mark.parametrize("line", ["{", '{"add": 7}', "[]", '{"add": {"path": null}}'])
def test_a_damaged_commit_is_said(tmp_path: Path, line: str) -> None:
    made = open_archive(Settings(data_dir=tmp_path))
    made.create()
    (tmp_path / "archive" / "_delta_log" / f"{0:020}.json").write_text(line + "\n")
    with pytest.raises(LogError, match=r"version 0 .* is damaged"):
        made.log().commit(0)


def test_appends_of_several_writers_at_once_are_all_seen(archive: Archive) -> None:
    mark = newest(archive)
    writers = [
        threading.Thread(target=append, args=(Archive(archive.uri, archive._storage_options), day)) for day in DAYS
    ]
    for writer in writers:
        writer.start()
    found = Touched(mark, {})
    while found.mark.version < mark.version + len(DAYS):  # looks on while they write, as the sensor does
        later = touched_days(archive, found.mark)
        found = Touched(later.mark, {**found.days, **later.days})
    for writer in writers:
        writer.join()
    assert sorted(found.days) == DAYS
    assert sorted(found.days.values()) == [4, 5, 6, 7]


def test_a_log_cleaned_of_what_was_not_seen_yet_is_said(archive: Archive) -> None:
    mark = newest(archive)
    last = append(archive, DAYS[3])
    table = archive.table()
    table.create_checkpoint()
    table.alter.set_table_properties({"delta.logRetentionDuration": "interval 0 days"})
    append(archive, DAYS[0])
    table = archive.table()
    table.create_checkpoint()
    table.cleanup_metadata()
    found = touched_days(archive, mark)
    assert found.gap is not None
    assert found.gap >= last
    # The cursor goes on from there as if nothing had been.
    assert touched_days(archive, found.mark) == Touched(found.mark, {})
    archive_version = append(archive, DAYS[1])
    assert touched_days(archive, found.mark) == Touched(
        Mark(found.mark.table, archive_version), {DAYS[1]: archive_version}
    )


def test_a_long_log_is_read_in_pieces(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    append(archive, DAYS[0])
    append(archive, DAYS[3])
    monkeypatch.setattr("sieis_platform.stores.since._COMMITS", 2)
    table = str(archive.table().metadata().id)
    seen, mark = [], None
    while mark is None or mark.version < archive.version():
        found = touched_days(archive, mark)
        mark = found.mark
        seen.append((mark, found.days, found.gap))
    assert seen == [
        (Mark(table, 1), {DAYS[0]: 1}, None),
        (Mark(table, 3), {DAYS[1]: 2, DAYS[2]: 3}, None),
        (Mark(table, 5), {DAYS[0]: 4, DAYS[3]: 5}, None),
    ]


def test_what_the_log_no_longer_holds_is_not_asked_for_version_by_version(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.table().create_checkpoint()
    last = append(archive, DAYS[3])
    for version in range(last):
        obstore.delete(archive.log()._store, f"_delta_log/{version:020}.json")
    asked: list[int] = []
    read = CommitLog.commit
    monkeypatch.setattr(CommitLog, "commit", lambda log, version: asked.append(version) or read(log, version))
    assert touched_days(archive, None) == Touched(newest(archive), {DAYS[3]: last}, gap=last - 1)
    assert set(asked) == {last}


def test_a_table_made_anew_is_read_from_its_beginning(archive: Archive) -> None:
    foreign = Mark("another", 2)
    assert touched_days(archive, foreign).days.keys() == set(DAYS[:3])
    beyond = newest(archive)._replace(version=99)
    assert touched_days(archive, beyond).days.keys() == set(DAYS[:3])


@pytest.mark.services
def test_a_server_that_is_away_is_retriable_and_tells_no_secret(minio: Instance) -> None:
    settings = on_s3(minio)
    archive = open_archive(settings)
    archive.create()
    log = archive.log()
    minio.stop()
    try:
        with pytest.raises(LogUnavailableError) as caught:
            log.commit(0)
        assert minio.credentials["secret_key"] not in str(caught.value)
    finally:
        minio.restart()
