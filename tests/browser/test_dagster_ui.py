"""Dagster's own UI in a browser: the real web server and daemon of an installation, its graph, a run, its checks."""

import datetime as dt
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import polars as pl
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from sieis_platform.defs.partitions import Window
from sieis_platform.reading import READING_SCHEMA
from sieis_platform.settings import Settings
from sieis_platform.state import State
from sieis_platform.stores.archive import Commit
from sieis_platform.stores.open import open_archive, open_marts
from tests.browser.conftest import dagster_ui

pytestmark = [pytest.mark.slow, pytest.mark.timeout(480)]

YESTERDAY = dt.datetime.now(dt.UTC).date() - dt.timedelta(days=1)
STEP_NS = 600_000_000_000

LAUNCH = """mutation ($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
STATUS = """query ($id: ID!) { runOrError(runId: $id) { ... on Run { status eventConnection { events {
    __typename ... on MessageEvent { message } ... on ErrorEvent { error { message causes { message } } } } } } } }"""
PROCESS = """query ($id: ID!) { runOrError(runId: $id) { ... on Run { status eventConnection { events {
    ... on EngineEvent { metadataEntries { label ... on TextMetadataEntry { text } } } } } } } }"""
STARTED_AGAIN = """query ($id: String!) { runsOrError(filter: {tags: [{key: "dagster/parent_run_id", value: $id}]}) {
    ... on Runs { results { runId } } } }"""
CHECKED = """query ($key: AssetKeyInput!, $check: String!) {
    assetCheckExecutions(assetKey: $key, checkName: $check, limit: 1) {
        status evaluation { success severity description
            metadataEntries { label ... on UrlMetadataEntry { url } } } } }"""
INSTIGATORS = """{ repositoriesOrError { ... on RepositoryConnection { nodes {
    schedules { name scheduleState { status } } sensors { name sensorState { status } } } } } }"""


def readings() -> pl.DataFrame:
    """Yesterday of three motes, a reading every ten minutes."""
    index = pl.int_range(144, dtype=pl.Int64)
    one = pl.select(
        (Window(YESTERDAY, YESTERDAY).start_ns + index * STEP_NS).alias("timestamp"),
        (20 + index % 7).alias("temperature"),
        (40 + index % 5).alias("humidity"),
        pl.lit(100.0).alias("light"),
        pl.lit(2.7).alias("voltage"),
    )
    frames = [one.with_columns(pl.lit(mote).alias("mote_id")) for mote in (1, 2, 3)]
    return pl.concat(frames).select(pl.col(name).cast(kind) for name, kind in READING_SCHEMA.items())


class Site(NamedTuple):
    """Where the UI is, and the installation that it shows."""

    url: str
    settings: Settings


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The UI of an installation whose archive holds a day; the daemon runs beside it, as with `sieis up`."""
    folder = tmp_path_factory.mktemp("dagster")
    settings = Settings(data_dir=folder / "var")
    rows = readings().with_columns(
        pl.lit("history:test").alias("source"),
        pl.lit(0, pl.Int32).alias("source_partition"),
        pl.int_range(pl.len(), dtype=pl.Int64).alias("source_offset"),
    )
    archive = open_archive(settings)
    archive.create()
    archive.append(Commit(rows, [], {}))
    with dagster_ui(settings, folder) as url:
        yield Site(url, settings)


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1600, "height": 1000})
    opened = context.new_page()
    opened.set_default_timeout(60_000)
    opened.goto(f"{site.url}/overview")
    yield opened

    context.close()


def ask(page: Page, query: str, **variables: object) -> dict[str, Any]:
    """GraphQL as the UI speaks it: from its page, to its own address."""
    script = """async (body) => (await fetch('/graphql', {method: 'POST', body,
        headers: {'Content-Type': 'application/json'}})).json()"""
    answer = page.evaluate(script, json.dumps({"query": query, "variables": variables}))
    assert "errors" not in answer, answer
    return answer["data"]


def succeeds(page: Page, run: str) -> None:
    """Wait until `run` has ended, well; else its events tell why not."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        told = ask(page, STATUS, id=run)["runOrError"]
        if told["status"] in ("SUCCESS", "FAILURE", "CANCELED"):
            assert told["status"] == "SUCCESS", told["eventConnection"]["events"][-8:]
            return
        page.wait_for_timeout(200)  # the daemon takes it from the queue: nothing but the status tells
    raise AssertionError(f"run {run} has not ended")


def seen(found: Locator) -> None:
    """Visible once the UI has loaded the definitions and drawn them: seconds, or more on a machine that is shared."""
    expect(found.first).to_be_visible(timeout=60_000)


def test_the_graph_shows_every_group(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/asset-groups")
    for group in ("stream", "archive", "rollups", "quality", "ml", "operations"):
        seen(page.get_by_text(group, exact=True))
    page.goto(f"{site.url}/locations/__repository__@sieis/asset-groups/rollups/lineage")
    for asset in ("hourly_aggregates", "daily_aggregates"):
        seen(page.get_by_text(asset))
    page.goto(f"{site.url}/locations/__repository__@sieis/asset-groups/quality/lineage")
    for asset in ("quality_results", "data_docs"):
        seen(page.get_by_text(asset))


def test_schedules_and_sensors_are_on(page: Page) -> None:
    (repository,) = ask(page, INSTIGATORS)["repositoriesOrError"]["nodes"]
    states = {one["name"]: one["scheduleState"]["status"] for one in repository["schedules"]}
    states |= {one["name"]: one["sensorState"]["status"] for one in repository["sensors"]}
    assert {"hourly_refresh", "daily_cleanup", "inbox", "automation", "failed_run"} <= states.keys()
    assert set(states.values()) == {"RUNNING"}


def launch(page: Page, **params: object) -> str:
    """Launch a run as the UI does; its id."""
    launched = ask(page, LAUNCH, params={"mode": "default", **params})["launchPipelineExecution"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    return launched["run"]["runId"]


def selector(job: str, **more: object) -> dict[str, object]:
    return {"repositoryLocationName": "sieis", "repositoryName": "__repository__", "pipelineName": job, **more}


def test_a_run_that_fails_is_alerted_by_the_daemon(page: Page, site: Site) -> None:
    config = {"ops": {"rebuild_hot_store_op": {"config": {"first_day": "yesterday"}}}}
    launch(page, selector=selector("rebuild_hot_store"), runConfigData=json.dumps(config))
    deadline = time.monotonic() + 240
    subject, alerts = "run/rebuild_hot_store/rebuild_hot_store_op", []
    while not alerts and time.monotonic() < deadline:
        page.wait_for_timeout(500)  # queue, run and sensor are other processes: only what they leave behind tells
        with State.open(site.settings) as state:  # among those of checks: this archive is in no good state
            alerts = [one for one in state.recent_alerts(100) if one.alert.subject == subject]
    (stored,) = alerts
    assert "first_day and last_day are days like" in stored.alert.text


def day_of(asset: str, *checks: str) -> dict[str, Any]:
    """What to launch to make yesterday of `asset`."""
    key = {"path": [asset]}
    named = [{"assetKey": key, "name": check} for check in checks]
    chosen = selector("refresh", assetSelection=[key], assetCheckSelection=named)
    return {
        "selector": chosen,
        "executionMetadata": {"tags": [{"key": "dagster/partition", "value": YESTERDAY.isoformat()}]},
    }


def test_a_day_is_materialized_and_its_checks_and_plot_are_shown(page: Page, site: Site) -> None:
    succeeds(page, launch(page, **day_of("hourly_aggregates", "counts_equal_archive")))

    page.goto(f"{site.url}/assets/hourly_aggregates?view=checks")
    seen(page.get_by_text("counts_equal_archive"))
    seen(page.get_by_text("1 row, all as expected"))

    page.goto(f"{site.url}/assets/hourly_aggregates?view=events&partition={YESTERDAY}")
    page.get_by_text("Show Markdown").last.click()
    plot = page.locator('img[src^="data:image/svg+xml"]')
    seen(plot)
    assert plot.evaluate("image => image.complete && image.naturalWidth") == 480


def test_a_check_that_fails_is_shown_with_what_is_wrong(page: Page, site: Site) -> None:
    tags = [{"key": "dagster/partition", "value": YESTERDAY.isoformat()}]
    succeeds(page, launch(page, selector=selector("refresh"), executionMetadata={"tags": tags}))  # the check only warns

    text = "days of a mote with less than 90% of its readings: 3 of 3 (100.00%)"
    (found,) = ask(page, CHECKED, key={"path": ["archive"]}, check="completeness")["assetCheckExecutions"]
    evaluation = found["evaluation"]
    assert found["status"] == "FAILED"
    assert (evaluation["success"], evaluation["severity"], evaluation["description"]) == (False, "WARN", text)
    links = {entry["label"]: entry["url"] for entry in evaluation["metadataEntries"] if "url" in entry}
    assert links == {"data_docs": site.settings.data_docs_url}

    page.goto(f"{site.url}/assets/archive?view=checks&checkDetail=completeness")
    seen(page.get_by_text(text))
    seen(page.locator(f'a[href="{site.settings.data_docs_url}"]'))


def awaited(page: Page, look: Callable[[], str | None], what: str) -> str:
    """What `look` finds, once it does: other processes write it down, and nothing tells when."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if found := look():
            return found
        page.wait_for_timeout(100)
    raise AssertionError(f"{what} never came")


def test_a_run_whose_process_is_killed_is_started_again_by_the_daemon(page: Page, site: Site) -> None:
    run = launch(page, **day_of("daily_aggregates"))

    def process() -> str | None:
        told = ask(page, PROCESS, id=run)["runOrError"]
        assert told["status"] not in ("SUCCESS", "FAILURE", "CANCELED"), told
        entries = [entry for event in told["eventConnection"]["events"] for entry in event.get("metadataEntries", ())]
        return next((entry["text"] for entry in entries if entry["label"] == "pid"), None)

    os.kill(int(awaited(page, process, "the process")), signal.SIGKILL)

    def again() -> str | None:
        return next((one["runId"] for one in ask(page, STARTED_AGAIN, id=run)["runsOrError"]["results"]), None)

    succeeds(page, awaited(page, again, "another run"))
    assert ask(page, STATUS, id=run)["runOrError"]["status"] == "FAILURE"
    days = open_marts(site.settings).scan("daily_aggregates").select("mote_id").collect()
    assert sorted(days["mote_id"]) == [0, 1, 2, 3]
