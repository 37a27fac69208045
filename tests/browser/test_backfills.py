"""Backfills as a person submits them: through the API of Dagster's own UI, run by the real daemon.

What the dialog "Materialize" of an asset sends is `launchPartitionBackfill`; the launchpad sends
`launchPipelineExecution` with its configuration. No browser is needed to send them.
"""

import datetime as dt
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from sieis_platform.history import HistoricalLoad
from sieis_platform.settings import Settings
from sieis_platform.stores.open import open_archive, open_hot, open_marts
from sieis_platform.timeline import TimelineFile
from tests.browser.conftest import dagster_ui
from tests.unit.sieis_platform.history_file import DAYS, MOTES, archived, day, hot_rows, won, write

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

A_DAY = 96
BACKFILL = """mutation ($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
ENDED = """query ($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill {
    status error { message } runs { runId status assetMaterializations { partition assetKey { path } } } } } }"""
LAUNCH = """mutation ($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
RUN = """query ($id: ID!) { runOrError(runId: $id) { ... on Run {
    status assetMaterializations { partition assetKey { path } } } } }"""


class Ui:
    """The API of the UI, and the installation that it shows."""

    def __init__(self, url: str, settings: Settings) -> None:
        self.settings = settings
        self._client = httpx.Client(base_url=url, timeout=60, trust_env=False)

    def ask(self, query: str, **variables: object) -> dict[str, Any]:
        answer = self._client.post("/graphql", json={"query": query, "variables": variables}).raise_for_status().json()
        assert "errors" not in answer, answer
        return answer["data"]

    def backfill(self, assets: Sequence[str], days: Sequence[dt.date]) -> str:
        """What "Materialize" sends; the id of the backfill."""
        selection = [{"path": [asset]} for asset in assets]
        params = {"assetSelection": selection, "partitionNames": [str(one) for one in days], "tags": []}
        launched = self.ask(BACKFILL, params=params)["launchPartitionBackfill"]
        assert launched["__typename"] == "LaunchBackfillSuccess", launched
        return launched["backfillId"]

    def runs(self, backfill: str) -> list[list[tuple[str, str]]]:
        """Asset and partition of everything that each run of a backfill has made, once all have ended well."""
        deadline = time.monotonic() + 400
        while time.monotonic() < deadline:
            found = self.ask(ENDED, id=backfill)["partitionBackfillOrError"]
            if found["status"] not in ("REQUESTED", "CANCELING", "FAILING"):
                assert found["status"] == "COMPLETED_SUCCESS", found
                return sorted(_made(run) for run in found["runs"])
            time.sleep(0.5)  # the daemon looks twice a minute: nothing but the status tells
        raise AssertionError(f"backfill {backfill} has not ended")

    def launch(self, asset: str, partition: dt.date, config: dict[str, object]) -> list[tuple[str, str]]:
        """What the launchpad sends for one partition; what the run has made, once it has ended well."""
        params = {
            "mode": "default",
            "selector": {
                "repositoryLocationName": "sieis",
                "repositoryName": "__repository__",
                "pipelineName": "__ASSET_JOB",
                "assetSelection": [{"path": [asset]}],
                "assetCheckSelection": [],
            },
            "runConfigData": json.dumps({"ops": {asset: {"config": config}}}),
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": str(partition)}]},
        }
        launched = self.ask(LAUNCH, params=params)["launchPipelineExecution"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            run = self.ask(RUN, id=launched["run"]["runId"])["runOrError"]
            if run["status"] in ("SUCCESS", "FAILURE", "CANCELED"):
                assert run["status"] == "SUCCESS", run
                return _made(run)
            time.sleep(0.5)  # as above
        raise AssertionError(f"run {launched} has not ended")


def _made(run: dict[str, Any]) -> list[tuple[str, str]]:
    return sorted((one["assetKey"]["path"][0], one["partition"]) for one in run["assetMaterializations"])


def of(asset: str, *numbers: int) -> list[tuple[str, str]]:
    """That asset on the days so many days before the anchor, ascending."""
    return sorted((asset, str(day(number))) for number in numbers)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("file") / "readings.txt", A_DAY)


@pytest.fixture(scope="module")
def expected(file: Path, tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """The archive after a load of the whole file."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("loaded"))
    hot = open_hot(settings)
    HistoricalLoad(settings, hot, open_archive(settings)).load(file)
    hot.close()
    return archived(settings)


@pytest.fixture(scope="module")
def ui(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    """An installation whose timeline is fixed and whose archive does not exist yet."""
    folder = tmp_path_factory.mktemp("dagster")
    settings = Settings(data_dir=folder / "var", data_file=file)
    TimelineFile.of(settings).fix(settings, dt.date(2004, 3, 1), DAYS)
    with dagster_ui(settings, folder) as url:
        yield Ui(url, settings)


def on(rows: pl.DataFrame, *numbers: int) -> pl.DataFrame:
    dates = pl.concat_str("year", "month", "day", separator="-")
    return rows.filter(dates.is_in([str(day(number)) for number in numbers]))


def test_backfills_from_the_ui_run_once_a_range_and_fill_exactly_their_days(ui: Ui, expected: pl.DataFrame) -> None:
    history = "historical_readings"
    filled = ui.runs(ui.backfill([history], [day(5), day(4), day(3)]))
    assert filled == [of(history, 5, 4, 3)]  # ONE run
    assert_frame_equal(archived(ui.settings), on(expected, 5, 4, 3), check_exact=True)
    assert_frame_equal(hot_rows(ui.settings), won(open_archive(ui.settings)), check_exact=True)
    before = open_archive(ui.settings).scan_all().sort("source_offset").collect()

    # Again; days that are not neighbours; both aggregates of what is there. The daemon takes all of them at one look.
    again = ui.backfill([history], [day(5), day(4), day(3)])
    apart = ui.backfill([history], [day(6), day(1)])
    aggregates = ui.backfill(["hourly_aggregates", "daily_aggregates"], [day(5), day(4), day(3)])
    assert ui.runs(again) == [of(history, 5, 4, 3)]
    assert sorted(made for run in ui.runs(apart) for made in run) == of(history, 6, 1)
    assert ui.runs(aggregates) == [sorted(of("hourly_aggregates", 5, 4, 3) + of("daily_aggregates", 5, 4, 3))]
    assert_frame_equal(archived(ui.settings), on(expected, 6, 5, 4, 3, 1), check_exact=True)
    now = open_archive(ui.settings).scan_all().sort("source_offset").collect()
    assert_frame_equal(on(now, 5, 4, 3), before, check_exact=True)  # to the moment of archiving
    assert_frame_equal(hot_rows(ui.settings), won(open_archive(ui.settings)), check_exact=True)

    means = on(expected, 5, 4, 3).group_by(
        "mote_id", pl.concat_str("year", "month", "day", separator="-").alias("date")
    )
    wanted = means.agg(pl.col("temperature").cast(pl.Float64).mean().alias("temp_avg"), pl.len().alias("record_count"))
    for mart, periods in (("daily_aggregates", 1), ("hourly_aggregates", 24)):
        rows = open_marts(ui.settings).scan(mart).filter(pl.col("mote_id") > 0).collect()
        rows = rows.filter(pl.col("date").is_in(wanted["date"].unique().to_list()))
        assert rows.height == 3 * MOTES * periods
        weighed = (pl.col("temp_avg") * pl.col("record_count")).sum() / pl.col("record_count").sum()
        found = rows.group_by("mote_id", "date").agg(weighed.alias("temp_avg"), pl.col("record_count").sum())
        assert_frame_equal(found, wanted, check_row_order=False, check_dtypes=False, rel_tol=1e-9)


def test_the_launchpad_replaces_a_day(ui: Ui, expected: pl.DataFrame) -> None:
    archive = open_archive(ui.settings)
    history = "historical_readings"
    assert ui.launch(history, day(2), {}) == of(history, 2)
    assert_frame_equal(on(archived(ui.settings), 2), on(expected, 2), check_exact=True)
    archive.table().update(updates={"light": "7"}, predicate=f"day = '{day(2):%d}'")
    assert ui.launch(history, day(2), {"replace": False}) == of(history, 2)
    assert on(archived(ui.settings), 2)["light"].unique().to_list() == [7]
    assert ui.launch(history, day(2), {"replace": True}) == of(history, 2)
    assert_frame_equal(on(archived(ui.settings), 2), on(expected, 2), check_exact=True)
    assert_frame_equal(hot_rows(ui.settings), won(archive), check_exact=True)
