"""Past days whose readings changed (late rows, backfills, corrections) are derived again, and only those.

Belongs here: the sensor, its cursor, what it asks for. Not here: which days a commit touched (stores/touched.py).
"""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import dagster as dg
import msgspec

from sieis_platform.defs.ml.assets import ANOMALIES, MODEL
from sieis_platform.defs.operations.jobs import refresh
from sieis_platform.defs.partitions import Window, today
from sieis_platform.defs.resources import PlatformResource
from sieis_platform.defs.rollups.assets import MARTS
from sieis_platform.errors import RetriableError
from sieis_platform.stores.touched import Mark, touched_days
from sieis_platform.stores.upkeep import last_expired

#: A flush of the archive comes every 30 s at most; late rows change averages of the past, which nobody watches live.
_INTERVAL_SECONDS: Final = 60
#: Days of one run: a week of 42 motes is aggregated in about a second, and a failure costs no more than that.
_RUN_DAYS: Final = 35
#: Partitions whose materializations are looked up at once (the API's own limit is 1,000 records a call).
_LOOKUP: Final = 1_000

_AGGREGATES: Final = [dg.AssetKey(mart) for mart in MARTS.values()]


class Cursor(msgspec.Struct, frozen=True):
    """How far the log was read, and the days touched while they were today: their turn comes once they are past."""

    table: str
    version: int
    pending: dict[str, int] = {}

    @classmethod
    def read(cls, text: str | None) -> "Cursor | None":
        """The cursor as kept by Dagster; None before the first tick, or where someone has set it to something else."""
        try:
            return msgspec.json.decode(text, type=cls) if text else None
        except msgspec.MsgspecError:
            return None

    def text(self) -> str:
        """For Dagster to keep."""
        return msgspec.json.encode(self).decode()


def windows(days: Iterable[dt.date], most: int = _RUN_DAYS) -> list[Window]:
    """Exactly these days, as few windows as possible, none longer than `most` days."""
    found: list[Window] = []
    for day in sorted(days):
        if found and (day - found[-1].last).days == 1 and found[-1].days < most:
            found[-1] = Window(found[-1].first, day)
        else:
            found.append(Window(day, day))
    return found


def late_data_sensor(days: dg.DailyPartitionsDefinition) -> dg.SensorDefinition:
    """The sensor for assets partitioned by `days`."""

    @dg.sensor(
        name="late_data",
        job=refresh,
        minimum_interval_seconds=_INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Reads the archive's log since its last look and refreshes exactly the past days that commits changed. "
            "Compaction changes none, retention leaves what was derived; today is refreshed hourly."
        ),
    )
    def late_data(context: dg.SensorEvaluationContext, platform: PlatformResource) -> dg.SensorResult | dg.SkipReason:
        settings, archive = platform.settings(), platform.archive()
        if not archive.exists():
            return dg.SkipReason("there is no archive yet; run `sieis load FILE` or `sieis consume`")
        cursor = Cursor.read(context.cursor)
        try:
            found = touched_days(archive, Mark(cursor.table, cursor.version) if cursor else None)
        except RetriableError as error:
            return dg.SkipReason(f"{error}; the next look begins where this one did")
        touched, now = found.days, today()
        if cursor and cursor.table == found.mark.table:
            touched = {**{dt.date.fromisoformat(day): version for day, version in cursor.pending.items()}, **touched}
        if found.gap is not None:
            # Days that only a cleaned commit touched cannot be told: all that have a partition may be among them. Those
            # beyond the retention are not: made anew they would lose what was derived of them.
            kept = settings.archive_retention_days
            after = last_expired(now, kept) if kept is not None else dt.date.min
            keys = (dt.date.fromisoformat(key) for key in days.get_partition_keys())
            touched = {**{day: found.gap for day in keys if day > after}, **touched}
        pending = {day.isoformat(): version for day, version in touched.items() if day >= now}
        past = {day: version for day, version in touched.items() if day < now and days.has_partition_key(str(day))}
        trained = platform.marts().exists(MODEL.to_user_string())
        assets = [*_AGGREGATES, ANOMALIES] if trained else _AGGREGATES
        stale = _stale(context.instance, assets, past)
        requests = [_request(window, found.mark, None if trained else _AGGREGATES) for window in windows(stale)]
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=None if requests else f"no past day was changed up to version {found.mark.version}",
            cursor=Cursor(*found.mark, pending).text(),
        )

    return late_data


def _request(window: Window, mark: Mark, assets: Sequence[dg.AssetKey] | None) -> dg.RunRequest:
    return dg.RunRequest(
        # One archive version asks for a window once, even if the cursor could not be kept.
        run_key=f"late-{mark.table}-{mark.version}-{window.first}-{window.last}",
        tags=window.tags(),
        asset_selection=assets,
    )


def _stale(
    instance: dg.DagsterInstance, assets: Sequence[dg.AssetKey], touched: Mapping[dt.date, int]
) -> list[dt.date]:
    """The touched days that some asset was not made from the touching version, or a later one, of the archive."""
    fresh: dict[dt.date, int] = dict.fromkeys(touched, 0)
    for asset in assets:
        for day, version in _made_from(instance, asset, list(touched)).items():
            fresh[day] += version >= touched[day]
    return [day for day, count in fresh.items() if count < len(assets)]


def _made_from(instance: dg.DagsterInstance, asset: dg.AssetKey, days: Sequence[dt.date]) -> dict[dt.date, int]:
    """Archive version that the newest materialization of each day was made from."""
    if not days:
        return {}
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=asset, asset_partitions=[str(day) for day in days]), limit=_LOOKUP
    ).records
    made: dict[dt.date, int] = {}
    for record in reversed(records):  # they come newest first: the newest is written last
        found = record.asset_materialization
        if found and found.partition and "archive_version" in found.metadata:
            made[dt.date.fromisoformat(found.partition)] = int(str(found.metadata["archive_version"].value))
    return made
