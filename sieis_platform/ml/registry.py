"""Keeping models: MLflow runs with parameters, metrics and the model, its versions, and the alias of the one in use.

Belongs here: everything that talks to MLflow. Not here: what a model computes.
"""

import io
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import polars as pl

from sieis_platform.errors import FatalError, RetriableError
from sieis_platform.ml.anomaly import AnomalyModel, Training
from sieis_platform.ml.features import BASELINE_SCHEMA
from sieis_platform.settings import Settings
from sieis_platform.telemetry import silence

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

MODEL_NAME: Final = "sieis-anomaly"
CHAMPION: Final = "champion"
_EXPERIMENT: Final = "sieis-anomaly"
_ARTIFACT: Final = "model"
_BASELINE: Final = "baseline.json"
_SQLITE: Final = "sqlite:///"

#: What skops may build when a model is loaded, beyond the types it knows as safe: the compiled tree of scikit-learn.
#: The list lies here because the one in the model's own file is written by whoever wrote the model.
_TRUSTED: Final = ["sklearn.tree._tree.Tree"]


class NoModelError(FatalError):
    """No version of the model has been registered yet."""


class RegistryUnavailableError(RetriableError):
    """MLflow does not answer; the same call may succeed later."""


class ModelUnreadableError(FatalError):
    """A registered model cannot be read: foreign types, missing files, or no threshold."""


@dataclass(frozen=True)
class Registered:
    """A version of the model. `trained_at` is Unix ns, UTC; `rows` is the number of rows the forest was fitted on."""

    name: str
    version: str
    run_id: str
    trained_at: int
    threshold: float
    rows: int


class Registry:
    """The model registry at an MLflow tracking address: a server (`http://…`) or a database (`sqlite:///…`,
    `postgresql+psycopg://…`). Nothing is opened before a call.
    """

    def __init__(self, uri: str, artifacts: Path | None = None) -> None:
        """`artifacts` is where models go with a database that is no file."""
        self._uri = uri
        # Beside the database; MLflow would put them into the current folder. A tracking server has its own place.
        self._database = Path(uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) else None
        served = uri.startswith(("http://", "https://"))
        self.artifacts = self._database.parent / "artifacts" if self._database else None if served else artifacts

    @classmethod
    def of(cls, settings: Settings) -> "Registry":
        """The registry of this installation."""
        return cls(settings.mlflow_location, settings.data_dir / "mlflow" / "artifacts")

    def register(self, training: Training) -> Registered:
        """Log a run with parameters, metrics and the model, register it as a new version and make it the champion.

        Raises: RegistryUnavailableError.
        """
        with self._client() as client:
            import mlflow  # noqa: PLC0415  (seconds to import)
            from mlflow.sklearn import log_model  # noqa: PLC0415

            with (
                mlflow.start_run(experiment_id=self._experiment(client), run_name="train") as run,
                tempfile.TemporaryDirectory() as folder,
            ):
                mlflow.log_params(dict(training.params))
                mlflow.log_metrics(dict(training.metrics))
                extra = Path(folder) / _BASELINE
                extra.write_text(training.model.base.write_json(), encoding="utf-8")
                logged = log_model(
                    training.model.forest,
                    name=_ARTIFACT,
                    serialization_format="skops",
                    skops_trusted_types=_TRUSTED,
                    extra_files=[str(extra)],
                    pip_requirements=["scikit-learn", "skops"],  # stated, or MLflow spends seconds to find them out
                    metadata={"threshold": training.model.threshold},
                )
            # Registered through the client: log_model would do it too, but prints to the terminal while it does.
            self._registered_model(client)
            version = str(
                client.create_model_version(
                    MODEL_NAME, logged.model_uri, run_id=run.info.run_id, model_id=logged.model_id
                ).version
            )
            client.set_registered_model_alias(MODEL_NAME, CHAMPION, version)
            return Registered(
                name=MODEL_NAME,
                version=version,
                run_id=run.info.run_id,
                trained_at=run.info.start_time * 1_000_000,
                threshold=training.model.threshold,
                rows=int(training.metrics["training_rows"]),
            )

    def champion(self) -> tuple[AnomalyModel, Registered]:
        """The version that the alias `champion` names, ready to score.

        Raises: NoModelError, ModelUnreadableError, RegistryUnavailableError.
        """
        with self._client() as client:
            from mlflow.artifacts import download_artifacts  # noqa: PLC0415

            version = self._champion_version(client)
            run = client.get_run(str(version.run_id))
            local = download_artifacts(artifact_uri=f"models:/{MODEL_NAME}@{CHAMPION}")
            model = _read(Path(local))
            return model, Registered(
                name=MODEL_NAME,
                version=str(version.version),
                run_id=str(version.run_id),
                trained_at=run.info.start_time * 1_000_000,
                threshold=model.threshold,
                rows=int(run.data.metrics["training_rows"]),
            )

    def _champion_version(self, client: "MlflowClient") -> "ModelVersion":
        from mlflow.exceptions import MlflowException  # noqa: PLC0415

        try:
            return client.get_model_version_by_alias(MODEL_NAME, CHAMPION)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise NoModelError(
                    f"no model {MODEL_NAME} is registered; materialize anomaly_model (`sieis materialize`)"
                ) from error
            raise

    def _registered_model(self, client: "MlflowClient") -> None:
        from mlflow.exceptions import MlflowException  # noqa: PLC0415

        try:
            client.create_registered_model(MODEL_NAME, description="Isolation Forest over the features of one reading")
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _experiment(self, client: "MlflowClient") -> str:
        found = client.get_experiment_by_name(_EXPERIMENT)
        if found is not None:
            return found.experiment_id
        return client.create_experiment(_EXPERIMENT, self.artifacts.as_uri() if self.artifacts else None)

    @contextmanager
    def _client(self) -> "Iterator[MlflowClient]":
        silence()
        import mlflow  # noqa: PLC0415
        from mlflow.exceptions import MlflowException  # noqa: PLC0415

        # The steps of a database migration, and much else.
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        if self._database:
            try:
                self._database.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise RegistryUnavailableError(f"no folder for MLflow at {self._database.parent}: {error}") from error
        # The fluent calls that log a model know only this process-wide address.
        mlflow.set_tracking_uri(self._uri)
        mlflow.set_registry_uri(self._uri)
        try:
            yield mlflow.MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)
        except MlflowException as error:
            raise RegistryUnavailableError(f"MLflow at {self._uri.split('@')[-1]}: {error}") from error


def _read(folder: Path) -> AnomalyModel:
    import skops.io  # noqa: PLC0415
    from mlflow.exceptions import MlflowException  # noqa: PLC0415
    from mlflow.models import Model  # noqa: PLC0415
    from skops.io.exceptions import UntrustedTypesFoundException  # noqa: PLC0415

    try:
        forest = skops.io.load(folder / "model.skops", trusted=_TRUSTED)
        threshold = float((Model.load(str(folder)).metadata or {})["threshold"])
        text = next(folder.rglob(_BASELINE)).read_text(encoding="utf-8")
        base = pl.read_json(io.StringIO(text), schema=BASELINE_SCHEMA)
    except (
        OSError,
        KeyError,
        TypeError,
        ValueError,
        StopIteration,
        MlflowException,
        UntrustedTypesFoundException,
    ) as error:
        raise ModelUnreadableError(f"model {MODEL_NAME} cannot be read: {error!r}; train it again") from error
    return AnomalyModel(forest, base, threshold)
