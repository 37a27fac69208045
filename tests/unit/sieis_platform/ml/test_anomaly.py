"""The anomaly model on the real building's own faults, on labelled ones, and on what it must not flag."""

from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal, assert_series_equal

from sieis_platform.ml.anomaly import AnomalyModel, TooFewReadingsError, train
from sieis_platform.ml.features import BASELINE_SCHEMA, FEATURES, baseline, features, healthy
from sieis_platform.reading import READING_SCHEMA
from sieis_platform.timeline import DAY_NS

MOTES = (1, 4, 6, 22, 23, 33)
DATE = pl.from_epoch("timestamp", time_unit="ns").dt.date()
CLEAN_WEEK = DATE.is_between(pl.date(2004, 2, 29), pl.date(2004, 3, 6))


@pytest.fixture(scope="module")
def model(real_readings: pl.DataFrame) -> AnomalyModel:
    """Trained as the asset does: on everything, of which training takes the healthy readings."""
    return train(real_readings).model


def _labelled(folder: Path, mote: int, kind: str) -> pl.DataFrame:
    """One labelled series: temperature and light at 30 s, no humidity and voltage; `fault` 0 where there is none."""
    raw = pl.read_csv(
        folder / "labelled_faults" / f"mote_{mote}_{kind}.csv.gz",
        schema_overrides={"temperature": pl.Float64, "light": pl.Float64},
    )
    moment = pl.col("timestamp").str.strip_chars("'").str.to_datetime("%Y-%m-%dT%H:%M:%S", time_unit="ns")
    return raw.select(
        pl.col("mote_id").cast(pl.Int32),
        moment.cast(pl.Int64).alias("timestamp"),
        pl.col("temperature").cast(pl.Float32),
        pl.lit(None, pl.Float32).alias("humidity"),
        pl.col("light").cast(pl.Float32),
        pl.lit(None, pl.Float32).alias("voltage"),
        pl.col("has_fault_type").alias("fault"),
    )


def _flagged(model: AnomalyModel, readings: pl.DataFrame) -> pl.Series:
    return model.score(readings) >= model.threshold


def _share(flags: pl.Series, where: pl.Series) -> float:
    return float(flags.filter(where).mean())  # pyright: ignore[reportArgumentType]


# Measured 99.2%, 1.3% and, without the week in the training, 2.4%: the bounds leave room for library versions only.
def test_the_plateau_of_dying_batteries_is_flagged(model: AnomalyModel, real_readings: pl.DataFrame) -> None:
    plateau = (real_readings["temperature"] - 122.153).abs() < 1e-3
    assert plateau.sum() == 43_927
    assert _share(_flagged(model, real_readings), plateau) > 0.985


def test_the_clean_week_is_not(model: AnomalyModel, real_readings: pl.DataFrame) -> None:
    week = real_readings.select(CLEAN_WEEK).to_series()
    assert _share(_flagged(model, real_readings), week) < 0.02


def test_a_model_that_never_saw_the_clean_week_does_not_flag_it_either(real_readings: pl.DataFrame) -> None:
    unseen = train(real_readings.filter(~CLEAN_WEEK)).model
    week = real_readings.filter(CLEAN_WEEK)
    assert float(_flagged(unseen, week).mean()) < 0.04  # pyright: ignore[reportArgumentType]


# Least share found over the six motes, measured: 1.00, 0.97, 0.57, 1.00, 1.00. A constant bias of 10 °C in one quantity
# is the hardest for a model of single readings: neither rate nor noise sees it, and some motes' spread reaches as far.
@pytest.mark.parametrize(
    ("kind", "least"),
    [("random", 0.99), ("malfunction", 0.95), ("bias", 0.5), ("drift", 0.95), ("polydrift", 0.95)],
)
def test_labelled_faults_are_found(model: AnomalyModel, real_data: Path, kind: str, least: float) -> None:
    for mote in MOTES:
        series = [_labelled(real_data, mote, f"temperature_{kind}")]
        series += [_labelled(real_data, other, "clean") for other in MOTES if other != mote]
        readings = pl.concat(series)
        flags, faulty = _flagged(model, readings.select(READING_SCHEMA.names())), readings["fault"] > 0
        assert _share(flags, faulty) >= least, f"mote {mote}"
        assert _share(flags, ~faulty) < 0.04, f"mote {mote}"


def test_training_is_repeatable_and_ignores_the_order_of_rows(real_readings: pl.DataFrame) -> None:
    readings = real_readings.filter(pl.date(2004, 3, 15) > DATE)  # enough that training takes a sample
    one, two = train(readings), train(readings.sample(fraction=1, shuffle=True, seed=1))
    assert one.metrics == two.metrics
    assert_series_equal(one.model.score(readings), two.model.score(readings))


def test_scores_belong_to_their_rows_whatever_the_order(model: AnomalyModel, real_readings: pl.DataFrame) -> None:
    day = real_readings.filter(pl.date(2004, 3, 20) == DATE).with_row_index("row")
    shuffled = day.sample(fraction=1, shuffle=True, seed=1)
    scored = shuffled.with_columns(model.score(shuffled.select(READING_SCHEMA.names()))).sort("row")
    assert_series_equal(scored["score"], model.score(day.select(READING_SCHEMA.names())))


def test_a_day_scores_alone_as_it_does_in_a_range(model: AnomalyModel, real_readings: pl.DataFrame) -> None:
    days = real_readings.filter(DATE.is_between(pl.date(2004, 3, 1), pl.date(2004, 3, 3)))
    one = days.filter(pl.date(2004, 3, 2) == DATE)
    together = model.anomalies(days).filter(pl.date(2004, 3, 2) == DATE)
    assert_frame_equal(model.anomalies(one), together)


def test_a_mote_unknown_to_the_training_is_measured_against_the_building(real_readings: pl.DataFrame) -> None:
    known = real_readings.filter(pl.col("mote_id") != 22)
    model = train(known).model
    stranger = real_readings.filter((pl.col("mote_id") == 22) & CLEAN_WEEK)
    assert float(_flagged(model, stranger).mean()) < 0.2  # pyright: ignore[reportArgumentType]
    assert model.score(stranger).is_between(0, 1).all()


def test_readings_of_nulls_alone_get_a_score(model: AnomalyModel) -> None:
    nothing = pl.DataFrame([(1, 0, None, None, None, None)], schema=READING_SCHEMA, orient="row")
    assert model.score(nothing).is_between(0, 1).all()
    assert model.score(READING_SCHEMA.to_frame()).is_empty()


def test_too_few_healthy_readings_are_refused(real_readings: pl.DataFrame) -> None:
    dying = real_readings.filter(pl.col("temperature") > 100).head(5_000)
    with pytest.raises(TooFewReadingsError, match="load more days"):
        train(dying)


def test_features_stop_at_midnight() -> None:
    rows = [(1, DAY_NS - 1, 20.0, 40.0, 1.0, 2.7), (1, DAY_NS + 1, 30.0, 40.0, 1.0, 2.7)]
    readings = pl.DataFrame(rows, schema=READING_SCHEMA, orient="row")
    frame = features(readings, baseline(readings))
    assert frame.columns == list(FEATURES)
    assert frame["temperature_rate"].to_list() == [0, 0]


def test_a_days_first_readings_take_rate_and_noise_of_those_that_follow() -> None:
    steps = [20.0, 23.0, *(20.0 + 0.1 * (i % 2) for i in range(20))]
    rows = [(1, DAY_NS + i * 30_000_000_000, value, None, 1.0, 2.7) for i, value in enumerate(steps)]
    readings = pl.DataFrame(rows, schema=READING_SCHEMA, orient="row")
    frame = features(readings, baseline(readings))
    rates, noise = frame["temperature_rate"], frame["temperature_noise"]
    assert rates[0] == rates[1] == pytest.approx(6.0, rel=1e-5)  # 3 °C in half a minute
    assert noise[:11].n_unique() == 1
    assert noise[10] == pytest.approx((3 + 3 + 8 * 0.1) / 10, rel=1e-5)
    assert noise[12] == pytest.approx(0.1, rel=1e-5)
    assert frame["humidity_noise"].to_list() == [0] * len(steps)


def test_a_days_first_readings_are_no_stranger_than_others(model: AnomalyModel, real_readings: pl.DataFrame) -> None:
    week = real_readings.filter(CLEAN_WEEK)
    of_day = pl.int_range(pl.len()).over("mote_id", DATE, order_by="timestamp")
    flags = _flagged(model, week)
    assert _share(flags, week.select(of_day < 10).to_series()) < 0.02


def test_the_baseline_of_a_steady_mote_has_a_spread_that_noise_fits_in() -> None:
    rows = [(5, i * 30_000_000_000, 20.0, 40.0, 1.0, 2.7) for i in range(50)]
    base = baseline(pl.DataFrame(rows, schema=READING_SCHEMA, orient="row"))
    assert base.schema == BASELINE_SCHEMA
    assert base["mote_id"].to_list() == [0, 5]
    assert base["temperature_spread"].min() == 0.5


@pytest.mark.parametrize(
    ("values", "sound"),
    [
        ((21.0, 40.0, 1.0, 2.7), True),
        ((21.0, 40.0, 1.0, 2.29), False),
        ((122.153, 40.0, 1.0, 2.7), False),
        ((21.0, None, None, None), True),
    ],
)
def test_healthy_is_possible_and_not_on_a_dying_battery(values: tuple, sound: bool) -> None:
    reading = pl.DataFrame([(1, 0, *values)], schema=READING_SCHEMA, orient="row")
    assert reading.select(healthy()).item() is sound
