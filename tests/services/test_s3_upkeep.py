"""The archive's care on a real S3 server: compaction beside a writer, closing, vacuum, log clean-up, the summary."""

import contextlib
import datetime as dt
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from sieis_cli.context import load_settings
from sieis_cli.main import app
from sieis_platform.analysis.ledger import audit_archive
from sieis_platform.reading import READING_SCHEMA
from sieis_platform.settings import Settings
from sieis_platform.stores.archive import (
    Archive,
    ArchiveError,
    ArchiveUnavailableError,
    Commit,
    FenceError,
    VersionGoneError,
)
from sieis_platform.stores.archive_errors import ColdTierError
from sieis_platform.stores.delta import clean
from sieis_platform.stores.ledger import LedgerEntry
from sieis_platform.stores.objects import ObjectUnavailableError, folders
from sieis_platform.stores.open import open_archive, open_marts
from sieis_platform.stores.rewrite import Scope, remove, replace_rows
from sieis_platform.stores.s3 import make_bucket, storage_options
from sieis_platform.stores.tiers import bring_back, move_day
from sieis_platform.stores.upkeep import compact_day, drop_superseded, vacuum
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
    with archive.reading():
        # The age of what lies on a server cannot be forged: a horizon of nothing takes all that is no longer needed.
        cleaned = clean(archive.table(), 0)
    assert cleaned.files == 7
    assert cleaned.log_entries > 6
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


def test_old_days_in_a_cold_bucket_beside_a_writer_that_comes_late(settings: Settings) -> None:
    bucket = f"cold-{uuid.uuid4().hex[:12]}"
    settings = settings.changed(archive_cold_uri=f"s3://{bucket}/readings")
    archive = open_archive(settings)
    append(archive, [(mote, number - ago * DAY_NS) for ago in (0, 1, 2) for mote in (1, 2) for number in range(5)])
    days = [DAY - dt.timedelta(days=ago) for ago in (2, 1)]
    with pytest.raises(ArchiveError, match="make it with `sieis setup`"):
        move_day(archive, days[0])
    assert make_bucket(settings, bucket).made
    stop = threading.Event()
    written = threading.Semaphore(0)

    def write() -> None:
        mine = open_archive(settings)
        while not stop.is_set():
            position = mine.position(APP) or 0
            append(mine, [(1, position - 2 * DAY_NS), (2, position - DAY_NS), (3, position)])
            written.release()
            stop.wait(0.2)  # without a pause a move never gets its turn, and says so (ArchiveUnavailableError)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(3):
            assert written.acquire(timeout=60)
            with contextlib.suppress(ArchiveUnavailableError):
                for day in days:
                    move_day(archive, day)
    finally:
        stop.set()
        writer.join()
    for day in days:
        move_day(archive, day)
    position = archive.position(APP)
    assert position is not None
    live = archive.scan_live(archive.files(), None, None).select((pl.col("timestamp") // DAY_NS).unique()).collect()
    assert live.to_series().to_list() == [MIDNIGHT // DAY_NS]
    audit = audit_archive(open_archive(settings))
    assert audit.findings == []
    assert audit.accounts[0].rows == position
    null = pl.lit(None, pl.Float32).alias("temperature")
    assert replace_rows(archive, Scope.day(days[0], [1]), lambda rows: rows.with_columns(null), reason="test")
    move_day(archive, days[0])
    vacuum(archive, 1)
    assert archive.scan(MIDNIGHT - 2 * DAY_NS, MIDNIGHT, [1]).collect()["temperature"].null_count() > 5
    with pytest.raises(ColdTierError, match="SIEIS_ARCHIVE_COLD_URI is not set"):
        open_archive(settings.changed(archive_cold_uri="")).scan_all()
    assert bring_back(archive).rows == audit.accounts[0].rows - live_rows(settings)
    assert audit_archive(open_archive(settings.changed(archive_cold_uri=""))).findings == []


def test_setup_makes_the_cold_bucket(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = f"cold-{uuid.uuid4().hex[:12]}"
    monkeypatch.chdir(tmp_path)
    given = {
        name: getattr(settings, name) for name in settings.model_fields_set if name.startswith(("s3_", "archive_"))
    }
    given |= {"archive_cold_uri": f"s3://{bucket}/readings", "marts_uri": settings.marts_uri}
    for name, value in given.items():
        text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        monkeypatch.setenv(f"SIEIS_{name.upper()}", text)
    load_settings.cache_clear()
    for expected in ("made", "there already"):
        done = CliRunner().invoke(app, ["setup"])
        assert done.exit_code == 0, done.output
        assert f"bucket {bucket}: {expected}" in done.output
    load_settings.cache_clear()


def live_rows(settings: Settings) -> int:
    """Rows of the day that never was cold."""
    rows = open_archive(settings).scan(MIDNIGHT, None).select(pl.len())
    return int(rows.collect().item())
