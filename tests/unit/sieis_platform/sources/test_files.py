"""Whole files: the facts of the real one, positions, compression, huge lines, and files that cannot be read."""

import datetime as dt
import gzip
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sieis_platform.sources.grammar import _split
from sieis_platform.sources.intel_lab import Batch, fingerprint, profile, read_batches
from sieis_platform.sources.profiles import EmptySourceError
from sieis_platform.sources.stream import (
    MAX_LINE_BYTES,
    SourceChangedError,
    SourceCorruptError,
    SourceError,
    SourceNotAFileError,
    SourceNotFoundError,
    SourcePermissionError,
    SourceStream,
    line_blocks,
)


def line(i: int, day: str = "2004-02-28", mote: int = 1) -> bytes:
    return f"{day} 00:{i // 60 % 60:02}:{i % 60:02}.{i:06} {i} {mote} 19.9884 37.0933 45.08 2.69964\n".encode()


def readings(batches: list[Batch]) -> pl.DataFrame:
    return pl.concat([batch.readings for batch in batches])


@pytest.fixture(scope="module")
def real(intel_lab_file: Path) -> pl.DataFrame:
    return readings(list(read_batches(intel_lab_file)))


def test_the_real_file_gives_the_facts_of_its_readme(real: pl.DataFrame) -> None:
    assert real.height == 280_828 == real.select("mote_id", "timestamp").n_unique()
    per_mote = dict(real["mote_id"].value_counts().iter_rows())
    assert per_mote == {1: 43_047, 4: 43_793, 6: 35_666, 22: 60_164, 23: 62_409, 33: 35_749}
    assert real.filter(pl.col("temperature") == pl.lit(122.153, pl.Float32)).height == 43_927
    assert real.filter(pl.col("temperature") > 50).height == 49_120
    assert real.filter(pl.col("humidity") < 0).height == 42_321
    assert real.filter(pl.col("voltage") < pl.lit(2.3, pl.Float32)).height == 54_933
    assert real["light"].max() == pytest.approx(1847.36)
    day = real.filter(pl.from_epoch("timestamp", time_unit="ns").dt.date() == dt.date(2004, 3, 5))
    one = day.filter(pl.col("mote_id") == 1)["temperature"].cast(pl.Float64)
    assert len(one) == 1_824
    assert one.mean() == pytest.approx(21.884114, abs=1e-6)
    assert one.std() == pytest.approx(1.899264, abs=1e-6)
    assert one.median() == pytest.approx(21.6103, abs=1e-6)
    other = day.filter(pl.col("mote_id") == 22)["temperature"].cast(pl.Float64)
    assert (len(other), other.mean(), other.max()) == (2_551, pytest.approx(23.369619), pytest.approx(33.1792))


def test_the_real_profile(intel_lab_file: Path) -> None:
    found = profile(intel_lab_file)
    assert (found.lines, found.readings, found.rejected, found.outside_span) == (280_828, 280_828, {}, 0)
    assert (found.first_day, found.days, found.last_day) == (dt.date(2004, 2, 28), 35, dt.date(2004, 4, 2))
    assert (found.first_ns, found.last_ns) == (1_077_929_926_657_464_000, 1_080_914_807_636_151_000)
    assert found.motes == [1, 4, 6, 22, 23, 33]
    assert found.end_offset == 18_253_909
    assert found.fingerprint == fingerprint(intel_lab_file)


@pytest.mark.parametrize("suffix", ["txt", "gz"])
def test_any_end_offset_is_a_start_that_gives_the_rest(tmp_path: Path, suffix: str) -> None:
    data = b"".join(line(i) if i % 7 else b"bad line\n" for i in range(500)) + b"2004-02-28 00:59:16.02785 3 1"
    path = tmp_path / f"data.{suffix}"
    path.write_bytes(gzip.compress(data) if suffix == "gz" else data)
    whole = next(iter(read_batches(path)))
    assert whole.end_offset == len(data)
    for at in range(0, len(data), 997):
        start = data.rfind(b"\n", 0, at) + 1
        rest = list(read_batches(path, start_offset=start))
        assert readings(rest).equals(whole.readings.filter(pl.col("source_offset") >= start))
        rejects = pl.concat([batch.rejects for batch in rest])
        assert rejects.equals(whole.rejects.filter(pl.col("byte_offset") >= start))
    assert list(read_batches(path, start_offset=len(data))) == []


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_of_a_file_that_has_grown_no_more_is_read_than_was_known(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "data"
    path.write_bytes(pack(b"".join(map(line, range(500)))))
    known = profile(path)
    with path.open("ab") as file:
        file.write(pack(b"".join(map(line, range(500, 600)))))
    (batch,) = read_batches(path, end_offset=known.end_offset)
    assert (batch.lines, batch.end_offset) == (500, known.end_offset)
    assert list(read_batches(path, start_offset=known.end_offset, end_offset=known.end_offset)) == []
    assert sum(batch.lines for batch in read_batches(path)) == 600


LINES = st.one_of(st.integers(0, 99).map(line), st.integers(0, 3 * MAX_LINE_BYTES).map(lambda n: b"y" * n + b"\n"))


@settings(deadline=None)
@given(st.lists(LINES), st.integers(100, 5000), st.integers(1, 5), st.booleans())
def test_blocks_hold_every_line_at_its_offset_however_the_bytes_come(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], piece: int, block_lines: int, ended: bool
) -> None:
    data = b"".join(lines)
    data = data if ended else data.removesuffix(b"\n")
    path = tmp_path_factory.mktemp("blocks") / "data.txt"
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch, SourceStream(path) as stream:
        read = stream.read
        patch.setattr(stream, "read", lambda size=piece: read(min(size, piece)))
        blocks = list(line_blocks(stream, block_lines))
    found = []
    for block in blocks:
        split = _split(block)
        for start, end, offset in zip(split.starts, split.ends, split.offsets, strict=True):
            found.append((int(offset), split.data[start:end].tobytes()[:MAX_LINE_BYTES]))
    expected, offset = [], 0
    for text in data.splitlines():
        expected.append((offset, text[:MAX_LINE_BYTES]))
        offset += len(text) + 1
    assert found == expected
    bounds = [0, *(block.end_offset for block in blocks)]
    assert [block.start_offset for block in blocks] == bounds[:-1]
    assert bounds[-1] == len(data)


def test_a_line_without_end_is_one_reject_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    with path.open("wb") as file:
        file.write(line(1))
        for _ in range(100):
            file.write(b"x" * (1 << 20))
        file.write(b"\n" + line(2))
    largest = 0
    with SourceStream(path) as stream:
        for block in line_blocks(stream, 10):
            largest = max(largest, len(block.data))
    assert largest < 3 << 20
    batches = list(read_batches(path))
    assert readings(batches)["source_offset"].to_list() == [0, len(line(1)) + (100 << 20) + 1]
    (reject,) = pl.concat([batch.rejects for batch in batches]).rows()
    assert reject == (len(line(1)), "overlong", b"x" * MAX_LINE_BYTES)


def test_gzip_is_told_by_its_first_bytes_and_is_the_same_source(tmp_path: Path) -> None:
    data = b"".join(map(line, range(100)))
    plain, packed = tmp_path / "plain.gz", tmp_path / "packed.txt"
    plain.write_bytes(data)
    packed.write_bytes(gzip.compress(data[:500]) + gzip.compress(data[500:]))  # two members are one text
    assert readings(list(read_batches(plain))).equals(readings(list(read_batches(packed))))
    assert fingerprint(plain) == fingerprint(packed)
    other = tmp_path / "other.txt"
    other.write_bytes(data[:-2] + b"5\n")
    assert fingerprint(other) != fingerprint(plain)


def test_a_cut_gzip_file_says_where_and_keeps_what_came_before(tmp_path: Path) -> None:
    rng = random.Random(1)
    data = b"".join(line(rng.randrange(10**6)) for _ in range(60_000))
    path = tmp_path / "data.gz"
    path.write_bytes(gzip.compress(data)[: -(200 << 10)])
    before = []
    with pytest.raises(SourceCorruptError, match=r"ends in the middle .* after byte [\d,]+ .*fetch the file again"):
        before.extend(read_batches(path, batch_rows=10_000))
    assert before[0].readings.height >= 10_000
    assert before[-1].end_offset < len(data)


def test_a_damaged_gzip_file_says_where(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(b"".join(map(line, range(5000)))))
    packed[len(packed) // 2] ^= 0xFF
    path = tmp_path / "data.gz"
    path.write_bytes(packed)
    with pytest.raises(SourceCorruptError, match=r"damaged|ends in the middle"):
        list(read_batches(path))


def test_files_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="does not exist"):
        list(read_batches(tmp_path / "none.txt"))
    with pytest.raises(SourceNotAFileError, match="is a directory"):
        list(read_batches(tmp_path))
    short = tmp_path / "short.txt"
    short.write_bytes(line(1))
    with pytest.raises(SourceChangedError, match="replaced or cut"):
        list(read_batches(short, start_offset=10_000))
    short.write_bytes(b"hello\n")
    with pytest.raises(EmptySourceError, match=r"no reading: 1 lines.*truncated 1"):
        profile(short)


def test_a_device_error_is_a_source_error() -> None:
    with pytest.raises(SourceError, match="cannot be read"):
        list(read_batches("/proc/self/mem"))  # address 0 is never mapped: a real EIO


@contextmanager
def not_root() -> Iterator[None]:
    """As a user whom permissions bind: root may read anything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_file_without_permission_says_so() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to others altogether
        Path(folder).chmod(0o755)
        path = Path(folder) / "data.txt"
        path.write_bytes(line(1))
        path.chmod(0)
        with not_root(), pytest.raises(SourcePermissionError, match="may not be read"):
            list(read_batches(path))


def test_a_stray_date_does_not_stretch_the_span(tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    path.write_bytes(
        b"".join(line(i, f"2004-03-{1 + i % 20:02}") for i in range(400))
        + line(1, "2094-03-01")
        + line(2, "1999-12-31")
        + b"".join(line(i, "2004-05-30") for i in range(3))
    )
    found = profile(path)
    # Three readings two months later are as many as 0.1 % and more than one: they count.
    assert (found.first_day, found.last_day, found.outside_span) == (dt.date(2004, 3, 1), dt.date(2004, 5, 30), 2)
    assert found.readings == 405


def test_a_short_outage_and_a_small_last_day_belong_to_the_span(tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    path.write_bytes(b"".join(line(i) for i in range(3000)) + line(1, "2004-03-20"))
    assert profile(path).days == 22
