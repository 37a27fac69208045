"""What a user can get wrong, through the real command: a message that says what to do, and nothing lost."""

import gzip
import json
import os
import random
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

from sieis_platform.stores.open import open_archive, open_hot
from sieis_streaming.broker import locate
from tests.faults.harness import Platform, Sender, eventually, platform, wait_until_archived, wait_until_hot
from tests.unit.sieis_platform.stores.conftest import SmallDisk

pytestmark = pytest.mark.timeout(180)

GOOD = "2004-03-01 00:{minute:02d}:{second:02d}.5 {epoch} {mote} 20.5 40.25 120 2.7"


def good(number: int, mote: int = 1) -> str:
    return GOOD.format(minute=number // 60 % 60, second=number % 60, epoch=number, mote=mote)


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Platform]:
    with platform(tmp_path / "var") as made:
        yield made


def told(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """The command failed, and said so in words."""
    output = done.stdout + done.stderr
    assert done.returncode not in (0, 2), output
    assert "Traceback" not in output
    for word in words:
        assert word in done.stderr


# -- files -----------------------------------------------------------------------------------------------------------
def missing(path: Path) -> None:
    del path


def dangling(path: Path) -> None:
    path.symlink_to(path.with_name("gone"))


def truncated_gzip(path: Path) -> None:
    lines = "\n".join(good(number, 1 + random.Random(number).randrange(54)) for number in range(3_000))
    whole = gzip.compress(lines.encode())
    path.write_bytes(whole[: len(whole) // 2])


def damaged_gzip(path: Path) -> None:
    whole = bytearray(gzip.compress("\n".join(good(number) for number in range(3_000)).encode()))
    whole[len(whole) // 2 : len(whole) // 2 + 8] = b"\xff" * 8
    path.write_bytes(whole)


def binary(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(100_000))


FILES: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "missing": (missing, ("does not exist", "check the path")),
    "dangling link": (dangling, ("does not exist", "check the path")),
    "directory": (Path.mkdir, ("is a directory", "give the readings file inside it")),
    "pipe": (os.mkfifo, ("is a pipe", "write the readings to a file first")),
    "gzip cut short": (truncated_gzip, ("ends in the middle", "fetch the file again")),
    "gzip damaged": (damaged_gzip, ("is damaged", "fetch the file again")),
    "binary": (binary, ("holds no reading", "expected lines of")),
    "empty": (Path.touch, ("holds no reading", "expected lines of")),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_cannot_be_loaded_is_told_and_leaves_nothing_behind(
    one: Platform, tmp_path: Path, kind: str
) -> None:
    make, words = FILES[kind]
    path = tmp_path / "readings.txt.gz"
    make(path)
    told(one.run("load", str(path)), str(path), *words)
    assert not (one.settings.data_dir / "timeline.json").exists()
    assert not open_archive(one.settings).exists()


def test_a_plain_file_named_gz_is_read_as_what_it_is(one: Platform, tmp_path: Path) -> None:
    path = tmp_path / "readings.gz"
    path.write_text("\n".join(good(number) for number in range(10)) + "\n")
    done = one.run("load", str(path), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows_archive"] == 10


@pytest.mark.parametrize("command", ["load", "broker"])
def test_a_data_directory_that_is_a_file_is_told(one: Platform, tmp_path: Path, command: str) -> None:
    path = tmp_path / "readings.txt"
    path.write_text(good(1) + "\n")
    one.environment["SIEIS_DATA_DIR"] = str(path)
    told(one.run(command, *([str(path)] if command == "load" else [])), str(path), "SIEIS_DATA_DIR")


# -- lines -----------------------------------------------------------------------------------------------------------
BAD_LINES: dict[str, list[bytes]] = {
    "truncated": [b"garbled", b"2004-03-01 00:00:30.5 7"],
    "bad_timestamp": [
        b"2004-13-01 00:00:00 1 1 20 40 100 2.7",
        b"2004-03-01 24:00:00 1 1 20 40 100 2.7",
        b"2004-02-30 00:00:00 1 1 20 40 100 2.7",
        b"2004-03-01 00:00:00.1234567 1 1 20 40 100 2.7",
    ],
    "bad_epoch": [b"2004-03-01 00:00:00 x 1 20 40 100 2.7"],
    "bad_mote": [b"2004-03-01 00:00:00 1 0 20 40 100 2.7", b"2004-03-01 00:00:00 1 -3 20 40 100 2.7"],
    "bad_value": [b"2004-03-01 00:00:00 1 1 warm 40 100 2.7"],
    "not_finite": [b"2004-03-01 00:00:00 1 1 1e39 40 100 2.7", b"2004-03-01 00:00:00 1 1 20 nan 100 2.7"],
    "unknown_form": [b"2004-03-01 00:00:00 1 1 20 40 100 2.7 9 9 9 9"],
    "binary": [b"2004-03-01 00:00:00 1 1 \xff\xfe 40 100 2.7", b"\x00\x01\x02"],
    "overlong": [b"2004-03-01 00:00:00 1 1 20 40 100 " + b"2" * 5_000],
    "outside_dataset_span": [b"1999-01-01 00:00:00 1 1 20 40 100 2.7"],
}
SKIPPED = {"empty": [b"", b"   "], "short": [b"2004-03-01 00:00:00 1 2004-03-02T00:00:00"]}
VARIANT = b"2004-03-01 02:00:00.123 7 20.5 40.25 120 2.7 2004-03-02 01:00:00"
SPARSE = b"2004-03-01 03:00:00 5 8 20.5"


def test_every_kind_of_bad_line_is_counted_and_kept_and_costs_no_good_one(one: Platform, tmp_path: Path) -> None:
    bad = [line for lines in [*BAD_LINES.values(), *SKIPPED.values()] for line in lines]
    fine = [good(number).encode() for number in range(len(bad))]
    mixed = [line for pair in zip(fine, bad, strict=True) for line in pair]
    path = tmp_path / "readings.txt"
    path.write_bytes(b"\n".join([*mixed, VARIANT, SPARSE, fine[0]]) + b"\r\n")

    done = one.run("load", str(path), "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["rejected"] == {reason: len(lines) for reason, lines in BAD_LINES.items()}
    assert summary["skipped"] == {reason: len(lines) for reason, lines in SKIPPED.items()}
    assert summary["rows_archive"] == len(fine) + 2
    assert summary["duplicates"] == 1
    fates = [
        summary["rows_archive"],
        summary["duplicates"],
        *summary["rejected"].values(),
        *summary["skipped"].values(),
    ]
    assert summary["lines_read"] == sum(fates) == len(mixed) + 3

    text = path.read_bytes()
    kept = [json.loads(line) for line in Path(summary["rejects_file"]).read_text().splitlines()]
    assert {reject["byte_offset"] for reject in kept} == {
        text.index(line) for lines in BAD_LINES.values() for line in lines
    }
    assert sorted(reject["reason"] for reject in kept) == sorted(
        reason for reason, lines in BAD_LINES.items() for _ in lines
    )
    shown = one.run("load", str(path))
    assert "already loaded" in shown.stdout
    rows = open_archive(one.settings).scan_all().collect()
    assert rows.height == len(fine) + 2
    assert rows.filter(mote_id=8).select("temperature", "humidity", "light", "voltage").row(0) == (
        20.5,
        None,
        None,
        None,
    )
    (account,) = one.verify()["accounts"]
    assert (account["stored"], account["dead"]) == (len(fine) + 2, len(kept))


# -- full disks ------------------------------------------------------------------------------------------------------
@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk of 6 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        made = SmallDisk(folder, 6 * 1024)
    except (OSError, AttributeError) as error:
        pytest.skip(f"mounting a small tmpfs is not permitted here: {error}")
    yield made
    made.unmount()


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """120,000 readings that do not compress well."""
    rng = random.Random(7)
    path = tmp_path / "many.txt"
    with path.open("w") as file:
        for number in range(120_000):
            hour, rest = divmod(number % 20_000 * 3, 3_600)
            values = (
                f"{rng.uniform(15, 30):.4f} {rng.uniform(20, 60):.4f} {rng.uniform(0, 900):.2f} {rng.uniform(2, 3):.5f}"
            )
            stamp = f"2004-03-01 {hour:02d}:{rest // 60:02d}:{rest % 60:02d}.{rng.randrange(10**6):06d}"
            file.write(f"{stamp} {number % 65_536} {1 + number // 20_000} {values}\n")
    return path


@pytest.mark.parametrize("full", ["everything", "archive"])
def test_a_load_on_a_full_disk_says_so_and_goes_on_when_there_is_space(
    tmp_path: Path, disk: SmallDisk, many: Path, full: str
) -> None:
    on_disk = {"archive_uri": disk.folder / "archive"} if full == "archive" else {}
    if full == "archive":
        (disk.folder / "filler").write_bytes(bytes(4 << 20))
    data_dir = tmp_path / "var" if full == "archive" else disk.folder / "var"
    with platform(data_dir, load_batch_rows=10_000, **on_disk) as one:
        told(one.run("load", str(many)), "disk", "full", "free space")
        before = open_archive(one.settings).scan_all().select(pl.len()).collect().item()
        assert before < 120_000
        disk.grow(200 * 1024)
        done = one.run("load", str(many), "--json")
        assert done.returncode == 0, done.stderr
        summary = json.loads(done.stdout)
        assert summary["rows_archive"] == 120_000 - before
        rows = open_archive(one.settings).scan_all().collect()
        assert rows.height == 120_000 == rows.n_unique("source_offset")
        hot = open_hot(one.settings)
        assert hot.count_readings() == 120_000
        hot.close()
        one.verify()


def test_a_disk_that_is_full_from_the_start_is_told_and_nothing_half_written_stays(disk: SmallDisk, many: Path) -> None:
    with platform(disk.folder / "var") as one:
        disk.fill()
        told(one.run("load", str(many)), "disk is full", "free some space")
        assert list((disk.folder / "var").iterdir()) == []


def test_a_consumer_on_a_full_disk_keeps_its_place_and_catches_up(tmp_path: Path, disk: SmallDisk) -> None:
    with platform(disk.folder / "var") as one:
        one.log = tmp_path / "processes.log"  # what the processes say must find space
        one.start("broker")
        incarnation = locate(one.settings).cluster_id or ""
        sender = Sender(one.settings)
        send(sender, 500)
        consumer = one.start("consume")
        wait_until_archived(one.settings, sender.ends(), incarnation)
        wait_until_hot(one.settings, 500)
        disk.fill()
        send(sender, 4_000)
        for sink, kind in (("archive", "ArchiveUnavailableError"), ("hot", "HotStoreUnavailableError")):
            eventually(
                lambda sink=sink, kind=kind: one.metric("sieis_errors_total", sink=sink, kind=kind) >= 2,
                f"{sink}: {one.log.read_text()[-2_000:]}",
            )
        assert consumer.poll() is None
        disk.free()
        disk.grow(200 * 1024)
        wait_until_archived(one.settings, sender.ends(), incarnation)
        wait_until_hot(one.settings, 4_500)
        one.stop(consumer)
        log = one.log.read_text()
        assert "is full; free space to go on" in log
        assert "Traceback" not in log
        accounts = one.verify()["accounts"]
        assert sum(account["stored"] for account in accounts) == 4_500
        assert sum(account["duplicates"] + account["dead"] + account["lost"] for account in accounts) == 0


def send(sender: Sender, count: int) -> None:
    for _ in range(count):
        record = sender.unique()
        sender.send(record, record["mote_id"])
    sender.flush()


# -- ports -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("command", "setting"),
    [("consume", "SIEIS_METRICS_PORT"), ("api", "SIEIS_API_PORT"), ("simulate", "SIEIS_SIMULATOR_PORT")],
)
def test_a_port_that_is_taken_is_told_with_the_setting_that_changes_it(
    tmp_path: Path, command: str, setting: str
) -> None:
    readings = tmp_path / "readings.txt"
    readings.write_text("\n".join(good(number) for number in range(100)) + "\n")
    with socket.create_server(("127.0.0.1", 0)) as taken, platform(tmp_path / "var", data_file=readings) as one:
        port = taken.getsockname()[1]
        one.environment[setting] = str(port)
        told(one.run(command), str(port), setting)
