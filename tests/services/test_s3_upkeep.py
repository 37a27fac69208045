"""The archive's care on a real S3 server: compaction beside a writer, closing, vacuum, log clean-up, the summary."""

import datetime as dt
import threading
import uuid
from collections.abc import Iterator

import polars as pl
import pytest
from pydantic import SecretStr

from sieis_platform.analysis.ledger import audit_archive
from sieis_platform.reading import READING_SCHEMA
from sieis_platform.settings import Settings
from sieis_platform.stores.archive import Archive, Commit, FenceError, VersionGoneError
from sieis_platform.stores.delta import clean
from sieis_platform.stores.ledger import LedgerEntry
from sieis_platform.stores.objects import ObjectUnavailableError, folders
from sieis_platform.stores.open import open_archive, open_marts
from sieis_platform.stores.rewrite import Scope, remove
from sieis_platform.stores.s3 import make_bucket, storage_options
from sieis_platform.stores.upkeep import compact_day, drop_superseded
from sieis_platform.timeline import DAY_NS
from tools.services import Services
from tools.services.instance import Instance

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

MIDNIGHT = 20_503 * DAY_NS
DAY = dt.date(1970, 1, 1) + dt.timedelta(days=20_503)
APP = "sensor_readings/one/0"


@pytest.fixture(scope="module", params=["seaweedfs", "minio"])
def instance(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    with Services.start([request.param], root=tmp_path_factory.mktemp(request.param)) as services:
        yield services[request.param]


@pytest.fixture
def settings(instance: Instance) -> Settings:
    """An archive and marts in a bucket of their own."""
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    settings = Settings(
        _env_file=None,  # pyright: ignore[reportCallIssue]
        archive_uri=f"s3://{bucket}/readings",
        marts_uri=f"s3://{bucket}/marts",
        s3_endpoint_url=instance.address,
        s3_access_key_id=instance.credentials["access_key"],
        s3_secret_access_key=SecretStr(instance.credentials["secret_key"]),
        s3_allow_http=True,
        s3_timeout_seconds=30,  # SeaweedFS takes seconds for the first file of a bucket
    )
    make_bucket(settings, bucket)
    open_archive(settings).create()
    return settings


def append(archive: Archive, keys: list[tuple[int, int]]) -> None:
    position = archive.position(APP)
    start = position or 0
    frame = pl.DataFrame(
        [(mote, MIDNIGHT + ns, 20.0, 40.0, None, 2.7) for mote, ns in keys], READING_SCHEMA, orient="row"
    )
    rows = frame.with_columns(
        source=pl.lit("stream:one"),
        source_partition=pl.lit(0, pl.Int32),
        source_offset=pl.int_range(start, start + len(keys), dtype=pl.Int64),
    )
    entry = LedgerEntry(app=APP, start=start, end=start + len(keys), stored=len(keys))
    archive.append(Commit(rows, [entry], {APP: position}))


def test_compaction_and_closing_beside_a_writer_lose_nothing(settings: Settings) -> None:
    archive = open_archive(settings)
    stop = threading.Event()
    written = threading.Semaphore(0)

    def write() -> None:
        mine = open_archive(settings)
        while not stop.is_set():
            append(mine, [(1, mine.position(APP) or 0), (2, 7), (3, 7 - DAY_NS)])
            written.release()

    writer = threading.Thread(target=write)
    writer.start()
    compacted = 0
    try:
        while compacted < 3:
            for _ in range(3):
                assert written.acquire(timeout=60)
            compacted += compact_day(archive, DAY).removed > 0
        assert written.acquire(timeout=60)
    finally:
        stop.set()
        writer.join()
    position = archive.position(APP)
    assert position is not None
    removed = drop_superseded(archive, DAY)
    assert removed == position // 3 - 1
    audit = audit_archive(archive)
    assert audit.findings == []
    assert (audit.accounts[0].end, audit.accounts[0].rows) == (position, position - removed)


def test_the_ledger_outlives_the_log_and_positions_fence_as_before(settings: Settings) -> None:
    archive = open_archive(settings)
    for number in range(6):
        append(archive, [(1, number), (1, number - DAY_NS)])
    reader = archive.scan_all()
    compact_day(archive, DAY)
    assert remove(archive, Scope(DAY, DAY, motes=[1]), reason="test") == 6
    before = audit_archive(archive)
    assert archive.copy_ledger() == archive.version() + 1
    # The age of what lies on a server cannot be forged: with a horizon of nothing all is old once the server's clock,
    # which counts in seconds, has moved on.
    files = log_entries = 0
    while log_entries <= 6:
        with archive.reading():
            cleaned = clean(archive.table(), 0)
        files, log_entries = files + cleaned.files, log_entries + cleaned.log_entries
    assert files == 7
    assert archive.commits()[-1]["version"] > 6
    assert audit_archive(archive) == before
    with pytest.raises(VersionGoneError), archive.reading():
        reader.collect()
    with pytest.raises(VersionGoneError):
        archive.scan_all(2)
    late = LedgerEntry(app=APP, start=10, end=11, stored=0, dead=1)
    with pytest.raises(FenceError):
        archive.append(Commit(pl.DataFrame(schema=archive.scan_all().collect_schema()), [late], {APP: 10}))
    append(archive, [(1, 100)])
    assert audit_archive(archive).findings == []


def test_objects_beside_the_table_and_the_marts_that_are_there(settings: Settings) -> None:
    archive = open_archive(settings)
    archive.put("_metrics/summary.json", b"{}")
    archive.put("_metrics/summary.json", b'{"files": 0}')
    options = storage_options(settings, settings.archive_uri)
    assert "_metrics" in folders(settings.archive_uri, options)
    assert open_marts(settings).tables() == []
    archive.copy_ledger()
    assert open_marts(settings).tables() == ["ledger"]
    wrong = storage_options(
        settings.model_copy(update={"s3_secret_access_key": SecretStr("not-the-secret")}), settings.archive_uri
    )
    with pytest.raises(ObjectUnavailableError) as raised:
        folders(settings.archive_uri, wrong)
    assert "not-the-secret" not in str(raised.value)
