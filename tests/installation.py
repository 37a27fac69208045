"""An installation with a Dagster instance, for tests of what is derived: runs what is asked for, and by its sensor.

Belongs here: runs and reads that several such tests share. Not here: data, servers.
"""

import datetime as dt

import dagster as dg
import polars as pl

from sieis_platform.defs.archive.historical import HISTORY
from sieis_platform.defs.assembly import build_definitions
from sieis_platform.defs.operations.jobs import refresh
from sieis_platform.defs.partitions import Window
from sieis_platform.defs.resources import PlatformResource
from sieis_platform.settings import Settings
from sieis_platform.stores.hot import Period
from sieis_platform.stores.open import open_hot, open_marts
from sieis_platform.timeline import Timeline, TimelineFile


class Installation:
    """One data directory with a Dagster instance: runs what is asked for, and what the sensor asks for."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance) -> None:
        self.settings, self.instance = settings, instance
        self.definitions = build_definitions(settings)
        self.cursor: str | None = None

    @property
    def timeline(self) -> Timeline:
        kept = TimelineFile.of(self.settings).read()
        assert kept is not None
        return kept

    def backfill(self, first: dt.date, last: dt.date, *, replace: bool = False) -> dg.ExecuteInProcessResult:
        job = self.definitions.resolve_implicit_global_asset_job_def()
        return job.execute_in_process(
            instance=self.instance,
            asset_selection=[HISTORY],
            tags=Window(first, last).tags(),
            run_config={"ops": {HISTORY.to_user_string(): {"config": {"replace": replace}}}},
            raise_on_error=False,
        )

    def tick(self) -> list[dg.RunRequest]:
        """One look of the sensor, and every run that it asks for; those runs."""
        sensor = self.definitions.resolve_sensor_def("late_data")
        context = dg.build_sensor_context(
            instance=self.instance, cursor=self.cursor, resources={"platform": PlatformResource.of(self.settings)}
        )
        data = sensor.evaluate_tick(context)
        self.cursor = data.cursor
        requests = list(data.run_requests or [])
        job = self.definitions.resolve_job_def(refresh.name)
        for request in requests:
            done = job.execute_in_process(
                instance=self.instance,
                tags=request.tags,
                asset_selection=list(request.asset_selection) if request.asset_selection else None,
            )
            assert done.success
        return requests

    def days_asked_for(self) -> list[str]:
        """The days that the next look asks for, ascending."""
        windows = [Window.of_tags(request.tags) for request in self.tick()]
        return sorted(key for window in windows if window is not None for key in window.keys)

    def run(
        self, job: str, window: Window | None = None, *assets: str, config: dict | None = None
    ) -> dg.ExecuteInProcessResult:
        """A job that must succeed, over the days of `window`; of its assets only those named, if any are."""
        done = self.definitions.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            tags=window.tags() if window else None,
            asset_selection=[dg.AssetKey(name) for name in assets] or None,
            run_config=config,
        )
        assert done.success
        return done

    def made(self, asset: str) -> dict[str, int]:
        """The storage id of the newest materialization of each of its partitions: a new one where it was made again."""
        key = dg.AssetKey(asset)
        ids = self.instance.get_latest_storage_id_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION)
        return dict(ids)

    def mart(self, table: str) -> pl.DataFrame:
        """A mart of aggregates, ordered."""
        return open_marts(self.settings).scan(table).sort("period_start", "mote_id").collect()

    def mart_files(self, table: str) -> dict[str, set[str]]:
        """The files of each day of a mart."""
        actions = pl.DataFrame(open_marts(self.settings).table(table).get_add_actions(flatten=True))
        return {date: set(rows["path"]) for (date,), rows in actions.group_by("partition.date")}  # pyright: ignore[reportReturnType]

    def hot_aggregates(self, period: Period) -> pl.DataFrame:
        """Those that the hot store shows, ordered as the marts are."""
        hot = open_hot(self.settings)
        try:
            return hot.aggregates(period, 0, 1 << 62).sort("period_start", "mote_id")
        finally:
            hot.close()
