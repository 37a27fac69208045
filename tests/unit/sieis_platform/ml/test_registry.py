"""The registry on a real MLflow database: what is registered comes back, and nothing foreign is built from it."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal, assert_series_equal

from sieis_platform.ml import registry
from sieis_platform.ml.anomaly import Training, train
from sieis_platform.ml.registry import ModelUnreadableError, NoModelError, Registry
from sieis_platform.reading import READING_SCHEMA
from sieis_platform.settings import Settings


@pytest.fixture(scope="module")
def readings() -> pl.DataFrame:
    """2,000 plausible readings of two motes."""
    random = np.random.default_rng(7)
    return pl.DataFrame(
        {
            "mote_id": np.repeat([1, 2], 1_000),
            "timestamp": np.tile(np.arange(1_000) * 30_000_000_000, 2),
            "temperature": random.normal(21, 1, 2_000),
            "humidity": random.normal(40, 2, 2_000),
            "light": random.uniform(0, 300, 2_000),
            "voltage": random.normal(2.7, 0.02, 2_000),
        }
    ).cast(dict(READING_SCHEMA))


@pytest.fixture(scope="module")
def training(readings: pl.DataFrame) -> Training:
    """A model trained on them."""
    return train(readings)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """One registry for the module: MLflow takes seconds to make its tables."""
    return Registry.of(Settings(data_dir=tmp_path_factory.mktemp("data")))


def test_the_life_of_a_model(shared: Registry, training: Training, readings: pl.DataFrame) -> None:
    with pytest.raises(NoModelError, match="materialize"):
        shared.champion()

    first = shared.register(training)
    model, found = shared.champion()
    assert found == first
    assert (found.version, found.threshold, found.rows) == ("1", training.model.threshold, 2_000)
    assert_frame_equal(model.base, training.model.base)
    assert_series_equal(model.score(readings), training.model.score(readings))

    second = shared.register(training)
    assert second.version == "2"
    assert shared.champion()[1] == second


def test_artifacts_lie_in_the_data_directory(shared: Registry, training: Training) -> None:
    shared.register(training)
    folder = shared.artifacts
    assert folder is not None
    assert list(folder.rglob("model.skops"))
    assert not list(folder.rglob("*.pkl"))
    assert not Path("mlruns").exists()


def test_a_model_may_not_choose_what_is_trusted(
    tmp_path: Path, training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Registry.of(Settings(data_dir=tmp_path))
    own.register(training)  # its own MLmodel file lists the tree as trusted, and that list is not asked
    monkeypatch.setattr(registry, "_TRUSTED", [])
    with pytest.raises(ModelUnreadableError, match="UntrustedTypesFound"):
        own.champion()
