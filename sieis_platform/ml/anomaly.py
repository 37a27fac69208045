"""The anomaly model: an Isolation Forest over the features of single readings, trained on healthy ones only.

Belongs here: training, scoring, the threshold. Not here: features (features.py), keeping models (registry.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from sieis_platform.errors import FatalError
from sieis_platform.ml.features import FEATURES, baseline, features, healthy
from sieis_platform.reading import READING_SCHEMA

if TYPE_CHECKING:
    from sklearn.ensemble import IsolationForest

# Measured on the labelled faults and the plateau of the reference data (tests/unit/sieis_platform/ml/test_anomaly.py):
# samples of 256, the library's default, flag 84% of the plateau and 91% of the malfunctions; 2,048 flag 99% and 97%.
# 4,096 flag no more of them, and four times the clean readings beside them.
# More than 64 trees change neither, and scoring costs in proportion.
TREES: Final = 64
SAMPLES_PER_TREE: Final = 2_048

#: Share of healthy training readings below the threshold: 1.5% of them will be flagged.
THRESHOLD_QUANTILE: Final = 0.985

#: Training rows at most; healthy readings beyond are sampled. The forest itself sees TREES * SAMPLES_PER_TREE rows.
TRAINING_ROWS: Final = 100_000
MINIMUM_ROWS: Final = 1_000


class TooFewReadingsError(FatalError):
    """There are not enough healthy readings to train on."""


@dataclass(frozen=True)
class AnomalyModel:
    """A trained forest, the baseline its features are measured against, and the score that flags a reading."""

    forest: "IsolationForest"
    base: pl.DataFrame
    threshold: float

    def score(self, readings: pl.DataFrame) -> pl.Series:
        """Score of each reading (READING_SCHEMA), Float64 in (0, 1), higher is stranger; in the order given.

        Give whole days: rates, noise and peers are taken within them.
        """
        if readings.is_empty():
            return pl.Series("score", [], pl.Float64)
        return pl.Series("score", _scores(self.forest, features(readings, self.base)), pl.Float64)

    def anomalies(self, readings: pl.DataFrame) -> pl.DataFrame:
        """The readings (READING_SCHEMA) whose score reaches the threshold, with `score` and `threshold`."""
        scored = readings.select(READING_SCHEMA.names()).with_columns(self.score(readings))
        flagged = scored.filter(pl.col("score") >= self.threshold)
        return flagged.with_columns(pl.lit(self.threshold, pl.Float64).alias("threshold")).sort("timestamp", "mote_id")


@dataclass(frozen=True)
class Training:
    """A trained model and what to log of its training."""

    model: AnomalyModel
    params: Mapping[str, str | int | float]
    metrics: Mapping[str, float]


def train(readings: pl.DataFrame, *, seed: int = 0) -> Training:
    """Train on `readings` (READING_SCHEMA, whole days): the same readings, in any order, and seed give the same model.

    The baseline is taken over all healthy readings; the forest is fitted on at most TRAINING_ROWS of them.

    Raises: TooFewReadingsError below MINIMUM_ROWS healthy readings.
    """
    from sklearn.ensemble import IsolationForest  # noqa: PLC0415  (a second to import; the CLI imports this module)

    readings = readings.sort("mote_id", "timestamp")  # the sample below is taken by row number
    is_healthy = readings.select(healthy().alias("healthy")).to_series()
    sound = readings.filter(is_healthy)
    if sound.height < MINIMUM_ROWS:
        raise TooFewReadingsError(
            f"only {sound.height:,} of {readings.height:,} readings are healthy, training needs {MINIMUM_ROWS:,}: "
            "load more days"
        )
    base = baseline(sound)
    # Features are taken over all rows and filtered afterwards: rate and noise need the reading before, healthy or not.
    matrix = features(readings, base).filter(is_healthy)
    if matrix.height > TRAINING_ROWS:
        matrix = matrix.sample(TRAINING_ROWS, seed=seed)
    samples = min(SAMPLES_PER_TREE, matrix.height)
    forest = IsolationForest(
        n_estimators=TREES,
        max_samples=samples,  # pyright: ignore[reportArgumentType]  (untyped library: taken for str from its default)
        random_state=seed,
    )
    forest.fit(matrix.to_numpy())
    scores = _scores(forest, matrix)
    threshold = float(np.quantile(scores, THRESHOLD_QUANTILE))
    return Training(
        model=AnomalyModel(forest, base, threshold),
        params={
            "trees": TREES,
            "samples_per_tree": samples,
            "threshold_quantile": THRESHOLD_QUANTILE,
            "features": ",".join(FEATURES),
            "seed": seed,
        },
        metrics={
            "readings": float(readings.height),
            "healthy_readings": float(sound.height),
            "training_rows": float(matrix.height),
            "motes": float(base.height - 1),
            "threshold": threshold,
            "score_median": float(np.median(scores)),
            "score_max": float(scores.max()),
        },
    )


def _scores(forest: "IsolationForest", matrix: pl.DataFrame) -> np.ndarray:
    return -forest.score_samples(matrix.select(FEATURES).to_numpy())
