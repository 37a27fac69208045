"""The made-up building: deterministic, in the format, with the troubles of the real one, each injected fault
labelled."""

import datetime as dt
import gzip
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from sieis_platform.reading import any_out_of_range
from sieis_platform.sources.faults import Fault, faulty_values
from sieis_platform.sources.generator import GeneratorError, generate, six_digits
from sieis_platform.sources.intel_lab import profile, read_batches
from sieis_platform.sources.motes import PLATEAU_TEMPERATURE, Building, Mote

DAY_NS = 86_400 * 10**9


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("made")
    data, labels = folder / "data.txt", folder / "labels.csv"
    generate(data, labels, motes=14, days=36, seed=5)
    return data, labels


@pytest.fixture(scope="module")
def readings(made: tuple[Path, Path]) -> pl.DataFrame:
    frame = pl.concat([batch.readings for batch in read_batches(made[0])])
    return frame.with_columns(day=pl.col("timestamp") // DAY_NS - (dt.date(2004, 2, 28) - dt.date(1970, 1, 1)).days)


def test_the_same_arguments_give_the_same_bytes_and_others_do_not(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.gz", "b.gz", "c.txt", "d.gz")]
    for file, seed in zip(files, (1, 1, 1, 2), strict=True):
        generate(file, file.with_suffix(".csv"), motes=3, days=12, seed=seed)
    a, b, c, d = (file.read_bytes() for file in files)
    assert a == b
    assert gzip.decompress(a) == c
    assert d != a
    assert files[0].with_suffix(".csv").read_bytes() == files[1].with_suffix(".csv").read_bytes()
    assert sorted(tmp_path.glob(".*")) == []


def test_a_mote_does_not_depend_on_how_many_there_are(tmp_path: Path) -> None:
    few, many = tmp_path / "few", tmp_path / "many"
    generate(few, motes=2, days=3)
    generate(many, motes=4, days=3)
    assert many.read_bytes().startswith(few.read_bytes())


def test_the_file_is_in_the_format_and_as_large_as_promised(made: tuple[Path, Path], readings: pl.DataFrame) -> None:
    found = profile(made[0])
    assert (found.rejected, found.motes, found.days) == ({}, list(range(1, 15)), 36)
    assert found.lines == found.readings == readings.height
    assert 0.55 < readings.height / (14 * 36 * 2880) < 0.8
    assert readings.select("mote_id", "timestamp").n_unique() == readings.height
    assert readings.equals(readings.sort("mote_id", "timestamp"))
    assert readings.null_count().sum_horizontal().item() == 0


def test_the_first_week_is_clean_and_the_later_ones_are_not(readings: pl.DataFrame) -> None:
    week = readings.filter(pl.col("day") < 8)
    assert week.filter(any_out_of_range()).is_empty()
    assert week["temperature"].min() > 10
    assert week["temperature"].max() < 40
    corr = week.group_by("mote_id").agg(pl.corr("temperature", "humidity").alias("c"))["c"]
    assert corr.max() < -0.5  # type: ignore[operator]
    assert week["voltage"].min() > 2.5  # type: ignore[operator]
    plateau = readings.filter(pl.col("temperature") == pl.lit(122.153, pl.Float32))
    assert plateau.height > 1000
    assert plateau["voltage"].max() < 2.4  # type: ignore[operator]
    assert plateau.filter(pl.col("humidity") < -3.9).height > plateau.height / 2


def test_a_dying_mote_sticks_17_to_21_hours_after_it_first_passes_40_degrees() -> None:
    building = Building.of(40, dt.date(2004, 2, 28), 8)
    seconds = np.arange(0, 40 * 86_400, 30.0)
    died = 0
    for mote_id in range(1, 13):
        rng = np.random.default_rng([8, mote_id])
        mote = Mote.of(building, mote_id, rng)
        temperature = mote.values(rng, seconds)["temperature"]
        stuck = seconds[temperature == PLATEAU_TEMPERATURE]
        if mote.died:
            warm = seconds[temperature > 40][0]
            assert 16.9 < (stuck[0] - warm) / 3600 < 21.1
            died += 1
        else:
            assert stuck.size == 0
    assert died >= 3


def test_outages_silence_all_motes(readings: pl.DataFrame) -> None:
    start = DAY_NS * ((dt.date(2004, 3, 10) - dt.date(1970, 1, 1)).days) + int(9.2 * 3.6e12)
    assert readings.filter(pl.col("timestamp").is_between(start, start + 24 * 3.6e12)).is_empty()


def lines_of(path: Path) -> pl.DataFrame:
    names = ["date", "time", "epoch", "mote_id", "temperature", "humidity", "light", "voltage"]
    return pl.read_csv(path, separator=" ", has_header=False, new_columns=names)


def test_the_epoch_falls_back_and_repeats(made: tuple[Path, Path]) -> None:
    lines = lines_of(made[0]).select("epoch", "mote_id")
    assert lines.n_unique() < lines.height
    assert lines["epoch"].min() >= 0  # type: ignore[operator]


def test_every_label_is_a_reading_of_the_file(made: tuple[Path, Path]) -> None:
    labels = pl.read_csv(made[1])
    assert labels.columns == ["mote_id", "timestamp", "fault", "start", "end"]
    assert set(labels["fault"]) <= {1, 2, 4, 8, 16}
    assert labels["fault"].n_unique() >= 3
    lines = lines_of(made[0])
    lines = lines.with_columns(timestamp=pl.col("date") + " " + pl.col("time"))
    assert labels.join(lines, on=["mote_id", "timestamp"], how="semi").height == labels.height
    assert labels.filter(~pl.col("timestamp").is_between("start", "end")).is_empty()
    assert labels["timestamp"].min() >= "2004-03-07"  # type: ignore[operator]


def test_faults_are_as_defined() -> None:
    rng = np.random.default_rng(0)
    true = 20 + np.sin(np.arange(400) / 60)
    made = {kind: faulty_values(rng, kind, true) for kind in Fault}
    assert set(np.round(made[Fault.RANDOM] / true, 9)) == {2.5, 3.5}
    noise = made[Fault.MALFUNCTION] - true
    assert abs(noise.mean()) < 0.3
    assert noise.std() == pytest.approx(1.5 * true.std(), rel=0.15)
    assert np.ptp(made[Fault.BIAS]) == 0
    assert 6 <= made[Fault.BIAS][0] - true.mean() <= 14
    assert 15 < abs((made[Fault.DRIFT] - true).mean()) < 43
    assert np.diff(made[Fault.POLYNOMIAL_DRIFT] - true) == pytest.approx(1.5)
    assert [int(kind) for kind in Fault] == [1, 2, 4, 8, 16]


def test_faults_match_the_published_series(intel_lab_file: Path) -> None:
    folder = intel_lab_file.parents[1] / "labelled_faults"
    clean = pl.read_csv(folder / "mote_1_clean.csv.gz")["temperature"].to_numpy()

    def series(name: str, code: int) -> tuple[np.ndarray, np.ndarray]:
        frame = pl.read_csv(folder / f"mote_1_temperature_{name}.csv.gz")
        rows = np.flatnonzero(frame["has_fault_type"].to_numpy() == code)
        return frame["temperature"].to_numpy()[rows], clean[rows]

    faulty, true = series("random", Fault.RANDOM)
    assert set(np.round(faulty / true, 1)) == {2.5, 3.5}
    faulty, true = series("polydrift", Fault.POLYNOMIAL_DRIFT)
    assert np.median(np.diff(faulty - true)) == pytest.approx(1.5, abs=1e-3)
    faulty, _ = series("bias", Fault.BIAS)
    assert np.median(np.abs(np.diff(faulty))) == pytest.approx(0, abs=1e-9)
    assert series("drift", Fault.DRIFT)[0].size > 0
    assert series("malfunction", Fault.MALFUNCTION)[0].size > 0


def test_a_year_is_no_problem_and_batteries_are_changed(tmp_path: Path) -> None:
    done = generate(tmp_path / "year", motes=2, days=365, seed=3)
    frame = pl.concat([batch.readings for batch in read_batches(done.path)])
    for mote in (1, 2):
        voltage = frame.filter(mote_id=mote)["voltage"]
        assert voltage.tail(200_000).max() > 2.6  # type: ignore[operator]
        assert voltage.is_finite().all()
    assert profile(done.path).days == 365


@pytest.mark.parametrize("wrong", [{"motes": 0}, {"days": 0}, {"seed": -1}, {"first_day": dt.date(1, 1, 1)}])
def test_numbers_without_meaning_are_refused(tmp_path: Path, wrong: dict) -> None:
    with pytest.raises(GeneratorError):
        generate(tmp_path / "x", **wrong)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(GeneratorError, match="cannot write"):
        generate(tmp_path / "file" / "data.txt", motes=1, days=1)


def test_values_have_six_significant_digits() -> None:
    values = np.array([19.98841234, 122.1534, -3.919011199, 45.08, 0.0, 1847.36, 2.699636])
    assert six_digits(values).tolist() == [19.9884, 122.153, -3.91901, 45.08, 0.0, 1847.36, 2.69964]


def test_progress_is_told_by_mote(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    generate(tmp_path / "x", motes=3, days=1, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
