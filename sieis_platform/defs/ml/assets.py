"""The anomaly model and the readings it flags.

Belongs here: which days are trained on and scored, and where the result goes. Not here: the model (sieis_platform.ml).
"""

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Final

import dagster as dg
import polars as pl

from sieis_platform.defs.archive.assets import ARCHIVE
from sieis_platform.defs.archive.snapshot import Snapshot
from sieis_platform.defs.failures import dagster_failures
from sieis_platform.defs.let_go import require_derivable, taken_over
from sieis_platform.defs.metadata import (
    OWNERS,
    PARTITION_ROWS,
    columns,
    labels,
    lineage,
    rows_by_day,
    same_columns,
    written,
)
from sieis_platform.defs.partitions import Window
from sieis_platform.defs.quality.guard import require_sound
from sieis_platform.defs.resources import PlatformResource
from sieis_platform.defs.rollups.assets import MARTS
from sieis_platform.ml.anomaly import train
from sieis_platform.reading import READING_SCHEMA

MODEL: Final = dg.AssetKey("anomaly_model")
ANOMALIES: Final = dg.AssetKey("anomalies")

MODEL_SCHEMA: Final = pl.Schema(
    {
        "name": pl.String(),
        "version": pl.String(),
        "trained_at": pl.Int64(),
        "rows": pl.Int64(),
        "threshold": pl.Float64(),
        "run_id": pl.String(),
    }
)
ANOMALY_SCHEMA: Final = pl.Schema(
    {
        "date": pl.String(),
        **READING_SCHEMA,
        "score": pl.Float64(),
        "threshold": pl.Float64(),
        "model_name": pl.String(),
        "model_version": pl.String(),
    }
)

#: Trained every night; two nights missed.
_MODEL_FRESHNESS: Final = dg.FreshnessPolicy.time_window(
    warn_window=dt.timedelta(hours=30), fail_window=dt.timedelta(hours=54)
)
#: Scored hourly, as soon as there is a model.
_SCORES_FRESHNESS: Final = dg.FreshnessPolicy.time_window(
    warn_window=dt.timedelta(hours=3), fail_window=dt.timedelta(hours=12)
)

_READINGS: Final = [(ARCHIVE, name) for name in READING_SCHEMA.names()]
_MODEL_LINEAGE: Final = lineage(dict.fromkeys(("version", "rows", "threshold"), _READINGS))
_ANOMALY_LINEAGE: Final = lineage(
    {
        **same_columns(READING_SCHEMA.names(), ARCHIVE),
        "date": [(ARCHIVE, "timestamp")],
        "score": [*_READINGS, (MODEL, "version")],
        "threshold": [(MODEL, "threshold")],
        "model_name": [(MODEL, "name")],
        "model_version": [(MODEL, "version")],
    }
)

#: Days a model learns from, at most, back from the newest: five weeks show a battery from new to dying.
_TRAINING_DAYS: Final = 36
#: Readings read for training, at most (about 0.5 GB while features are computed). 42 complete motes send as many in
#: 12 days: of a longer history, days evenly spread over it are taken.
_TRAINING_READINGS: Final = 1_500_000
_BATCH_DAYS: Final = 7


def training_days(rows_by_day: Mapping[dt.date, int]) -> list[dt.date]:
    """The days to train on: of the newest _TRAINING_DAYS, evenly spread, as many as stay below _TRAINING_READINGS."""
    newest = sorted(rows_by_day)[-_TRAINING_DAYS:]
    step = 1
    while sum(rows_by_day[day] for day in newest[::-step]) > _TRAINING_READINGS and step < len(newest):
        step += 1
    return sorted(newest[::-step])


@dg.asset(
    key=MODEL,
    deps=[ARCHIVE],
    group_name="ml",
    kinds={"sklearn", "mlflow"},
    owners=OWNERS,
    tags=labels("model", "marts"),
    pool="marts",
    freshness_policy=_MODEL_FRESHNESS,
    description="Isolation Forest trained on healthy readings, logged and registered in MLflow as the champion.",
    metadata={
        **columns(MODEL_SCHEMA, {"trained_at": "Unix ns, UTC", "rows": "rows the forest was fitted on"}),
        **_MODEL_LINEAGE,
    },
)
def anomaly_model(context: dg.AssetExecutionContext, platform: PlatformResource) -> dg.MaterializeResult:
    """Train, register, and say in the mart which version is in use."""
    with dagster_failures():
        archive = Snapshot.of(platform.archive())
        days = training_days(archive.rows_by_day())
        readings = [archive.readings(Window(day, day)) for day in days]
        training = train(pl.concat(readings) if readings else READING_SCHEMA.to_frame())
        model = platform.registry().register(training)
        row = pl.DataFrame(
            [(model.name, model.version, model.trained_at, model.rows, model.threshold, model.run_id)],
            schema=MODEL_SCHEMA,
            orient="row",
        )
        version = platform.marts().replace("anomaly_model", row)
    context.log.info("%s version %s trained on %d days", model.name, model.version, len(days))
    return dg.MaterializeResult(
        metadata={
            **written(
                1,
                row,
                mart_version=version,
                archive_version=archive.version,
                archive_table=archive.table_id,
                time_column="trained_at",
            ),
            **_MODEL_LINEAGE,
            "model_version": model.version,
            "mlflow_run_id": model.run_id,
            "days": len(days),
            **training.params,
            **training.metrics,
        }
    )


def anomalies_asset(days: dg.DailyPartitionsDefinition) -> dg.AssetsDefinition:
    """The asset of flagged readings: a run over any range of days replaces exactly those days."""

    @dg.asset(
        key=ANOMALIES,
        # The aggregates are not read, but their blocking check stands guard: what does not add up is not scored.
        deps=[ARCHIVE, MODEL, *MARTS.values()],
        partitions_def=days,
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name="ml",
        kinds={"sklearn", "deltalake"},
        owners=OWNERS,
        tags=labels("derived", "marts"),
        pool="marts",
        freshness_policy=_SCORES_FRESHNESS,
        output_required=False,
        description="Readings whose score reaches the champion model's threshold, with the model that flagged them. "
        "While no model is trained nothing is scored, and no day is materialized.",
        metadata={
            **columns(ANOMALY_SCHEMA, {"timestamp": "Unix ns, UTC", "score": "higher is stranger"}),
            **_ANOMALY_LINEAGE,
        },
    )
    def anomalies(context: dg.AssetExecutionContext, platform: PlatformResource) -> Iterator[dg.MaterializeResult]:
        window = Window.of_keys(context.partition_key_range)
        with dagster_failures():
            if not platform.marts().exists(MODEL.to_user_string()):
                context.log.warning("no model has been trained yet: nothing is scored")
                return
            archive = Snapshot.of(platform.archive())
            require_derivable(archive.let_go, window)
            require_sound(archive, window)
            model, registered = platform.registry().champion()
            scored = 0
            frames = [ANOMALY_SCHEMA.to_frame()]
            for batch in window.batches(_BATCH_DAYS):
                readings = archive.derivable(batch)
                scored += readings.height
                flagged = model.anomalies(readings).with_columns(
                    pl.from_epoch("timestamp", time_unit="ns").dt.strftime("%Y-%m-%d").alias("date"),
                    pl.lit(registered.name).alias("model_name"),
                    pl.lit(registered.version).alias("model_version"),
                )
                frames.append(flagged.select(ANOMALY_SCHEMA.names()))
            marts = platform.marts()
            kept = taken_over(marts, ANOMALIES.to_user_string(), archive.let_go, window)
            if kept is not None:
                frames.append(kept.select(ANOMALY_SCHEMA.names()))
            found = pl.concat(frames).sort("timestamp", "mote_id")
            version = marts.replace_days(ANOMALIES.to_user_string(), found, window.first, window.last)
            table_rows = marts.info(ANOMALIES.to_user_string()).rows
        rows = rows_by_day(found)
        for day in window.keys:
            context.add_asset_metadata({PARTITION_ROWS: rows.get(day, 0)}, partition_key=day)
        context.log.info("%d of %d readings flagged", found.height, scored)
        yield dg.MaterializeResult(
            metadata={
                **written(
                    table_rows,
                    found,
                    mart_version=version,
                    archive_version=archive.version,
                    archive_table=archive.table_id,
                ),
                **_ANOMALY_LINEAGE,
                "readings_scored": scored,
                "model_version": registered.version,
                "threshold": registered.threshold,
            }
        )

    return anomalies


def definitions(days: dg.DailyPartitionsDefinition) -> dg.Definitions:
    """The model and its anomalies."""
    return dg.Definitions(assets=[anomaly_model, anomalies_asset(days)])
