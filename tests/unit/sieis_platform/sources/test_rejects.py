"""The rejects file: each refused line once, through repetitions and kills."""

import base64
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sieis_platform.sources.grammar import REJECT_SCHEMA
from sieis_platform.sources.rejects import RejectsFile, RejectsFileError


def frame(*rows: tuple[int, str, bytes]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=REJECT_SCHEMA, orient="row")


ROWS = ((0, "binary", b"\x00\xff"), (10, "bad_mote", b"a line"), (20, "bad_mote", "\u00b0C \x01".encode()))


def entries(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_rejects_are_kept_with_their_bytes(tmp_path: Path) -> None:
    with RejectsFile(tmp_path, "ab12", "data.txt") as file:
        assert file.add(frame(*ROWS)) == {"binary": 1, "bad_mote": 2}
    assert file.path == tmp_path / "rejects" / "ab12.jsonl"
    kept = entries(file.path)
    assert [(e["source"], e["fingerprint"], e["byte_offset"], e["reason"]) for e in kept] == [
        ("data.txt", "ab12", offset, reason) for offset, reason, _ in ROWS
    ]
    lines = [base64.b64decode(e["line_base64"]) if "line_base64" in e else e["line"].encode() for e in kept]
    assert lines == [row[2] for row in ROWS]


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 20), max_size=6), max_size=6))
def test_whatever_is_repeated_is_there_once(tmp_path_factory: pytest.TempPathFactory, rounds: list[list[int]]) -> None:
    data_dir = tmp_path_factory.mktemp("rejects")
    added = 0
    for offsets in rounds:
        with RejectsFile(data_dir, "ab", "data.txt") as file:
            for _ in range(2):
                added += sum(file.add(frame(*((offset, "binary", b"x") for offset in offsets))).values())
            counts = file.counts
    distinct = {offset for offsets in rounds for offset in offsets}
    assert added == len(distinct)
    if rounds:
        assert sum(counts.values()) == len(distinct)
        assert {entry["byte_offset"] for entry in entries(file.path)} == distinct


@pytest.mark.parametrize("left", range(1, 60, 7))
def test_a_torn_last_entry_is_cut_off_and_written_again(tmp_path: Path, left: int) -> None:
    with RejectsFile(tmp_path, "ab", "data.txt") as file:
        file.add(frame(*ROWS))
    whole = file.path.read_bytes()
    file.path.write_bytes(whole[:-left])
    with RejectsFile(tmp_path, "ab", "data.txt") as file:
        assert file.counts == {"binary": 1, "bad_mote": 1}
        assert file.add(frame(*ROWS)) == {"bad_mote": 1}
    assert file.path.read_bytes() == whole


KILLED = """
import sys
import polars as pl
from pathlib import Path
from sieis_platform.sources.grammar import REJECT_SCHEMA
from sieis_platform.sources.rejects import RejectsFile
with RejectsFile(Path(sys.argv[1]), "ab", "data.txt") as file:
    for start in range(0, 10**9, 500):
        rows = [(start + i, "binary", bytes(300)) for i in range(500)]
        file.add(pl.DataFrame(rows, schema=REJECT_SCHEMA, orient="row"))
        print(start, flush=True)
"""


def test_a_killed_writer_loses_nothing_it_had_returned_from(tmp_path: Path) -> None:
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            done = [int(writer.stdout.readline()) for _ in range(5)][-1]
            os.kill(writer.pid, signal.SIGKILL)
        with RejectsFile(tmp_path, "ab", "data.txt") as file:
            assert file.counts["binary"] >= done + 500
        offsets = [entry["byte_offset"] for entry in entries(file.path)]
        assert offsets == list(range(len(offsets)))


def test_one_writer_at_a_time_and_only_where_it_may_write(tmp_path: Path) -> None:
    with RejectsFile(tmp_path, "ab", "data.txt"), pytest.raises(RejectsFileError, match="another load of the same"):
        RejectsFile(tmp_path, "ab", "data.txt")
    with pytest.raises(RejectsFileError, match="not a fingerprint"):
        RejectsFile(tmp_path, "../x", "data.txt")
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    with pytest.raises(RejectsFileError, match="cannot write"):
        RejectsFile(blocked, "ab", "data.txt")


def test_a_damaged_file_is_not_guessed_at(tmp_path: Path) -> None:
    with RejectsFile(tmp_path, "ab", "data.txt") as file:
        file.add(frame(*ROWS))
    file.path.write_bytes(b"not json\n" + file.path.read_bytes())
    with pytest.raises(RejectsFileError, match="damaged"):
        RejectsFile(tmp_path, "ab", "data.txt")
