"""Archive and marts on real S3 servers: concurrent writers, the fence, outages, secrets that stay secret."""

import datetime as dt
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import obstore
import polars as pl
import pytest
from deltalake import DeltaTable
from polars.testing import assert_frame_equal
from pydantic import SecretStr

from sieis_platform.errors import SieisError
from sieis_platform.reading import READING_SCHEMA
from sieis_platform.settings import Settings
from sieis_platform.stores.archive import (
    Archive,
    ArchiveError,
    ArchiveUnavailableError,
    Commit,
    FenceError,
    LedgerEntry,
)
from sieis_platform.stores.fates import stream_fates
from sieis_platform.stores.marts import MartError, MartUnavailableError
from sieis_platform.stores.objects import object_store, put, tag
from sieis_platform.stores.open import open_archive, open_marts
from sieis_platform.stores.s3 import (
    Bucket,
    BucketError,
    BucketUnavailableError,
    S3SettingsError,
    empty_bucket,
    make_bucket,
    scan_options,
    storage_options,
)
from sieis_platform.timeline import DAY_NS
from tools.services.group import Services
from tools.services.instance import Instance

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

MIDNIGHT = 20_503 * DAY_NS
APP = "sensor_readings/incarnation/0"
T = TypeVar("T")


class Server(NamedTuple):
    """A running S3 server and settings of an archive and marts on it."""

    instance: Instance
    settings: Settings

    @property
    def secret(self) -> str:
        return self.instance.credentials["secret_key"]


@pytest.fixture(scope="module", params=["seaweedfs", "minio"])
def instance(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    with Services.start([request.param], root=tmp_path_factory.mktemp(request.param)) as services:
        yield services[request.param]


def server_of(instance: Instance, root: str) -> Server:
    settings = Settings(
        _env_file=None,  # pyright: ignore[reportCallIssue]
        archive_uri=f"{root}/readings",
        marts_uri=f"{root}/marts",
        s3_endpoint_url=instance.address,
        s3_access_key_id=instance.credentials["access_key"],
        s3_secret_access_key=SecretStr(instance.credentials["secret_key"]),
        s3_allow_http=True,
        s3_timeout_seconds=6,  # SeaweedFS takes seconds for the first file of a bucket
    )
    return Server(instance, settings)


@pytest.fixture
def server(instance: Instance) -> Server:
    """In a bucket of its own, which is not there yet."""
    return server_of(instance, f"s3://test-{uuid.uuid4().hex[:12]}")


@pytest.fixture(scope="module")
def bucket(instance: Instance) -> str:
    return make_bucket(server_of(instance, "s3://sieis-test").settings, "sieis-test").name


@pytest.fixture
def made(instance: Instance, bucket: str) -> Server:
    """In a bucket that is there, under a prefix of its own."""
    return server_of(instance, f"s3://{bucket}/{uuid.uuid4().hex[:12]}")


@pytest.fixture
def archive(made: Server) -> Archive:
    opened = open_archive(made.settings)
    opened.create()
    return opened


def rows(keys: list[tuple[int, int]], start: int = 0, partition: int = 0) -> pl.DataFrame:
    frame = pl.DataFrame([(mote, ns, 20.0, 40.0, None, 2.7) for mote, ns in keys], READING_SCHEMA, orient="row")
    return frame.with_columns(
        source=pl.lit("stream:incarnation"),
        source_partition=pl.lit(partition, pl.Int32),
        source_offset=pl.int_range(start, start + len(keys), dtype=pl.Int64),
    )


def append(archive: Archive, frame: pl.DataFrame, expected: int | None = None, app: str = APP) -> int:
    start = expected or 0
    entry = LedgerEntry(app=app, start=start, end=start + frame.height, stored=frame.height)
    return archive.append(Commit(frame, [entry], {app: expected}))


def at_once(works: Sequence[Callable[[], object]]) -> list[BaseException | None]:
    """Run all at the same time; what each raised."""
    with ThreadPoolExecutor(len(works)) as threads:
        return [future.exception() for future in [threads.submit(work) for work in works]]


def patiently(use: Callable[[], T], seconds: float = 60) -> T:
    """What `use` gives, tried again while the server is not all there: SeaweedFS answers before its volumes are up."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return use()
        except ArchiveUnavailableError:
            if time.monotonic() > deadline:
                raise


def archived(archive: Archive) -> list[int]:
    """The offsets of all rows."""

    def read() -> list[int]:
        with archive.reading():
            return sorted(archive.scan_all().collect()["source_offset"])

    return patiently(read)


# -- buckets -----------------------------------------------------------------------------------------------------------
def test_a_bucket_is_made_once(server: Server) -> None:
    name = server.settings.archive_uri.split("/")[2]
    assert make_bucket(server.settings, name) == Bucket(name, made=True)
    assert make_bucket(server.settings, name) == Bucket(name, made=False)


def test_without_its_bucket_every_use_says_what_to_do(server: Server) -> None:
    archive, marts = open_archive(server.settings), open_marts(server.settings)
    for use in (archive.exists, archive.create, archive.table, archive.scan):
        with pytest.raises(ArchiveError, match="sieis setup"):
            use()
    with pytest.raises(MartError, match="sieis setup"):
        marts.exists("rollup")


def test_a_wrong_key_is_refused_for_good_and_no_secret_is_told(made: Server) -> None:
    wrong = made.settings.model_copy(update={"s3_secret_access_key": SecretStr("not-the-secret-at-all")})
    archive, marts = open_archive(wrong), open_marts(wrong)
    frame = pl.DataFrame({"date": ["2026-02-01"]})
    uses: list[tuple[type[SieisError], Callable[[], object]]] = [
        (ArchiveError, archive.exists),
        (ArchiveError, archive.create),
        (ArchiveError, archive.table),
        (MartError, lambda: marts.append("rollup", frame)),
        (BucketError, lambda: make_bucket(wrong, "another-bucket")),
    ]
    for kind, use in uses:
        with pytest.raises(kind) as raised:
            use()
        told = "".join(traceback.format_exception(raised.value))
        assert "not-the-secret-at-all" not in told
        assert "X-Amz-Signature" not in told
    for shown in (repr(archive), repr(marts), repr(wrong), str(archive.__dict__.keys())):
        assert "not-the-secret-at-all" not in shown


# -- the archive -------------------------------------------------------------------------------------------------------
def test_what_is_appended_is_read_with_position_and_ledger(made: Server) -> None:
    archive = open_archive(made.settings)
    assert not archive.exists()
    archive.create()
    assert archive.exists()
    frame = rows([(1, MIDNIGHT), (2, MIDNIGHT + 1), (1, MIDNIGHT + DAY_NS)])
    version = append(archive, frame)
    assert (archive.version(), archive.position(APP)) == (version, 3)
    assert [(entry.start, entry.end, entry.stored) for entry in archive.ledger()] == [(0, 3, 3)]
    assert stream_fates(archive, 0, time.time_ns() + DAY_NS).entries == archive.ledger()
    assert archive.positions() == {APP: 3}
    archive.table().create_checkpoint()
    assert archive.positions() == {APP: 3}
    found = archive.scan().select(frame.columns).collect()
    assert_frame_equal(found, frame, check_row_order=False)
    one = archive.scan(MIDNIGHT, MIDNIGHT + DAY_NS, [2]).collect()
    assert one.select("mote_id", "timestamp").rows() == [(2, MIDNIGHT + 1)]


def test_a_table_kept_open_sees_the_commits_of_others_and_that_it_was_made_anew(made: Server) -> None:
    archive = open_archive(made.settings)
    for commits in (3, 2, 5):  # each time in place of the one before, with fewer commits or more
        archive.create()
        before = archive.files()
        assert (before.version, before.all()) == (0, [])
        for number in range(commits):
            append(archive, rows([(commits, MIDNIGHT + number)], start=number), number or None)
            assert archive.files().version == number + 1
        with archive.reading():
            assert set(archive.scan().collect()["mote_id"]) == {commits}
        assert archive.files().table_id == before.table_id == str(archive.table().metadata().id)
        store = object_store(archive.uri, storage_options(made.settings, archive.uri))
        obstore.delete(store, [found["path"] for page in obstore.list(store) for found in page])
    with pytest.raises(ArchiveError, match="there is no archive"):
        archive.files()


def test_racing_creators_make_it_once(made: Server) -> None:
    assert at_once([open_archive(made.settings).create] * 4) == [None] * 4
    assert open_archive(made.settings).version() == 0


def test_four_concurrent_writers_lose_nothing(made: Server, archive: Archive) -> None:
    def write(partition: int) -> None:
        mine = open_archive(made.settings)
        for number in range(15):
            frame = rows([(partition + 1, MIDNIGHT + number)], number, partition)
            append(mine, frame, number or None, f"sensor_readings/incarnation/{partition}")

    assert at_once([lambda p=partition: write(p) for partition in range(4)]) == [None] * 4
    found = archive.scan_all().select("source_partition", "source_offset").collect().rows()
    assert sorted(found) == [(partition, number) for partition in range(4) for number in range(15)]
    assert len(archive.ledger()) == 60


def test_of_four_writers_of_one_position_the_fence_lets_one_through(made: Server, archive: Archive) -> None:
    for race in range(5):
        works = [
            lambda race=race: append(open_archive(made.settings), rows([(1, MIDNIGHT + race)], race), race or None)
        ] * 4
        outcomes = [type(error) for error in at_once(works)]
        assert sorted(outcomes, key=str) == sorted([type(None), FenceError, FenceError, FenceError], key=str)
    assert archive.position(APP) == 5
    assert archive.scan_all().collect().height == 5


def test_killed_and_restarted_the_server_has_all_that_was_committed(made: Server, archive: Archive) -> None:
    append(archive, rows([(1, MIDNIGHT)]))
    reader = archive.scan()
    made.instance.kill()
    try:
        for use in (archive.exists, archive.table, archive.scan, archive.ledger):
            with pytest.raises(ArchiveUnavailableError):
                use()
        with pytest.raises(ArchiveUnavailableError), archive.reading():
            reader.collect()
        with pytest.raises(ArchiveUnavailableError) as raised:
            append(archive, rows([(1, MIDNIGHT + 1)], 1), 1)
        assert made.secret not in "".join(traceback.format_exception(raised.value))
        with pytest.raises(MartUnavailableError):
            open_marts(made.settings).exists("rollup")
        with pytest.raises(BucketUnavailableError):
            make_bucket(made.settings, "another-bucket")
    finally:
        made.instance.start()
    assert patiently(lambda: archive.position(APP)) == 1
    patiently(lambda: append(archive, rows([(1, MIDNIGHT + 1)], 1), 1))
    assert archived(archive) == [0, 1]


def test_a_server_that_hangs_is_given_up_and_nothing_is_stored_twice(made: Server, archive: Archive) -> None:
    append(archive, rows([(1, MIDNIGHT)]))
    reader = archive.scan()
    made.instance.pause()
    try:
        with pytest.raises(ArchiveUnavailableError):
            append(archive, rows([(1, MIDNIGHT + 1)], 1), 1)
        with pytest.raises(ArchiveUnavailableError), archive.reading():
            reader.collect()
    finally:
        made.instance.resume()
    made.instance.wait_ready()
    append(archive, rows([(1, MIDNIGHT + 1)], 1), 1)
    assert archived(archive) == [0, 1]


def test_writers_killed_off_by_a_crashing_server_leave_no_gap_and_no_repeat(made: Server, archive: Archive) -> None:
    """The server is killed while writers commit; each goes on from where the table then is."""

    def write(partition: int) -> None:
        mine, app = open_archive(made.settings), f"sensor_readings/incarnation/{partition}"
        position = 0
        while position < 30:
            try:
                append(mine, rows([(partition + 1, MIDNIGHT + position)], position, partition), position or None, app)
                position += 1
            except ArchiveUnavailableError:
                continue
            except FenceError as error:
                # A commit whose answer was lost: it is there, and the position says so.
                assert error.found == position + 1  # noqa: PT017
                position += 1

    def crash() -> None:
        for _ in range(2):
            version = patiently(archive.version)
            while patiently(archive.version) < version + 10:
                pass
            made.instance.kill()
            made.instance.start()

    works = [crash, *(lambda p=partition: write(p) for partition in range(2))]
    for error in at_once(works):
        if error:
            raise error
    found = archive.scan_all().select("source_partition", "source_offset").collect().rows()
    assert sorted(found) == [(partition, number) for partition in range(2) for number in range(30)]
    assert sorted((entry.app[-1], entry.start) for entry in archive.ledger()) == sorted(
        (str(partition), number) for partition in range(2) for number in range(30)
    )


# -- the marts ---------------------------------------------------------------------------------------------------------
def test_days_are_replaced_by_writers_side_by_side(made: Server) -> None:
    def write(number: int) -> None:
        marts, date = open_marts(made.settings), dt.date(2026, 2, number)
        for value in range(5):
            frame = pl.DataFrame({"date": [date.isoformat()], "value": [value]})
            marts.replace_days("rollup", frame, date, date)

    assert at_once([lambda n=number: write(n) for number in range(1, 5)]) == [None] * 4
    marts = open_marts(made.settings)
    found = marts.scan("rollup").sort("date").collect()
    assert found["date"].to_list() == [f"2026-02-0{number}" for number in range(1, 5)]
    assert found["value"].to_list() == [4] * 4
    assert marts.info("rollup").rows == 4


# -- settings ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"s3_access_key_id": ""}, "SIEIS_S3_ACCESS_KEY_ID"),
        ({"s3_secret_access_key": None}, "SIEIS_S3_SECRET_ACCESS_KEY"),
        ({"s3_allow_http": False}, "SIEIS_S3_ALLOW_HTTP"),
        ({"s3_endpoint_url": "http://user:hidden@host:1"}, "without credentials"),
        ({"archive_uri": "s3:///readings"}, "names no bucket"),
        ({"archive_uri": "s3://Upper/readings"}, "names no bucket"),
    ],
)
def test_settings_that_cannot_work_are_named_before_anything_is_opened(
    server: Server, changes: dict, complaint: str
) -> None:
    with pytest.raises(S3SettingsError, match=complaint) as raised:
        open_archive(server.settings.model_copy(update=changes))
    assert "hidden" not in str(raised.value)


def test_variables_meant_for_other_programs_change_nothing(made: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever library goes there; test_s3_environment.py has every name."""
    nowhere = "http://127.0.0.1:9"
    for name, value in {
        "AWS_ACCESS_KEY_ID": "other", "AWS_SECRET_ACCESS_KEY": "other", "AWS_SESSION_TOKEN": "other", "TOKEN": "other",
        "AWS_ENDPOINT_URL": nowhere, "AWS_ENDPOINT_URL_S3": nowhere, "AWS_PROFILE": "other",
        "AWS_REGION": "mars-north-1",
        "AWS_SKIP_SIGNATURE": "true", "AWS_PROXY_URL": nowhere,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    settings = made.settings.changed()  # as a process that starts now reads them
    options = storage_options(settings, settings.archive_uri)

    archive = open_archive(settings)
    archive.create()
    append(archive, rows([(1, MIDNIGHT)]))
    assert DeltaTable(settings.archive_uri, storage_options=options).version() == archive.version() == 1
    with archive.reading():
        assert archive.scan().collect().height == 1
    scanned = pl.scan_delta(settings.archive_uri, storage_options={**options, **scan_options(options)})
    assert scanned.collect().height == 1
    put(settings.archive_uri, options, "beside.txt", b"kept")
    assert tag(settings.archive_uri, options, "beside.txt")
    name = f"test-{uuid.uuid4().hex[:12]}"
    assert make_bucket(settings, name) == Bucket(name, made=True)
    assert empty_bucket(settings, name, mark="mark") == 0


def test_a_session_token_of_the_settings_is_looked_at_by_the_server(made: Server) -> None:
    """Neither server made it, and both say so: it arrives."""
    token = uuid.uuid4().hex
    archive = open_archive(made.settings.changed(s3_session_token=SecretStr(token)))
    with pytest.raises(ArchiveError) as raised:
        archive.create()
    assert token not in "".join(traceback.format_exception(raised.value))


def test_a_folder_needs_no_options(tmp_path: Path) -> None:
    assert storage_options(Settings(_env_file=None), str(tmp_path)) == {}  # pyright: ignore[reportCallIssue]
