"""Past days whose readings changed (late rows, backfills, corrections) are derived again, and only those.

Belongs here: the sensor, its cursor, what it asks for. Not here: which days a commit touched (stores/touched.py).
"""

import datetime as dt
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import dagster as dg
import msgspec
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES  # it has no public name

from sieis_platform.defs.cursors import decoded
from sieis_platform.defs.metadata import archive_version_of
from sieis_platform.defs.ml.assets import ANOMALIES, MODEL
from sieis_platform.defs.operations.jobs import refresh
from sieis_platform.defs.partitions import Window, first_partition, is_fixed, reach_back, today, windows
from sieis_platform.defs.resources import NO_ARCHIVE, PlatformResource
from sieis_platform.defs.rollups.assets import MARTS
from sieis_platform.defs.rollups.unpartitioned import some, told
from sieis_platform.errors import RetriableError
from sieis_platform.stores.let_go import LetGo
from sieis_platform.stores.since import Mark
from sieis_platform.stores.touched import touched_days

#: A flush of the archive comes every 30 s at most; late rows change averages of the past, which nobody watches live.
_INTERVAL_SECONDS: Final = 60
#: A run that was asked for so long ago, is not under way and has made nothing, has failed. What was away may be back;
#: what fails for good (a blocking check) fails again: each time the wait is twice as long, up to a day.
_ASK_AGAIN_SECONDS: Final = 1_800
_LONGEST_WAIT_SECONDS: Final = 86_400
#: Days whose materializations are looked up at once (the API's own limit is 1,000 records a call), with room for those
#: of every hour of the day and for some later ones.
_LOOKUP: Final = 1_000
_LOOKUP_DAYS: Final = 25

_AGGREGATES: Final = [dg.AssetKey(mart) for mart in MARTS.values()]


class Asked(msgspec.Struct, frozen=True, array_like=True):
    """When a day was last asked for (Unix seconds), the archive's version that its run read at least, and how often
    it was asked for at that version.
    """

    version: int
    at: int
    times: int = 1

    @property
    def wait_seconds(self) -> int:
        """How long a run is given before it counts as failed."""
        return min(_ASK_AGAIN_SECONDS * 2 ** min(self.times - 1, 10), _LONGEST_WAIT_SECONDS)


class Cursor(msgspec.Struct, frozen=True):
    """How far the log was read, and the touched days (with the version that did) that are not derived anew yet.

    Among those are today, whose turn comes once it is past, days that have no partition, and the days `asked` for.
    `waiting` holds since when (Unix seconds) past days have no partition, 0 once that was alerted.
    """

    table: str
    version: int
    pending: dict[str, int] = {}
    asked: dict[str, Asked] = {}
    waiting: dict[str, int] = {}

    @classmethod
    def read(cls, text: str | None) -> "Cursor | None":
        """The cursor as kept by Dagster; None before the first tick, or where someone has set it to something else."""
        return decoded(text, cls)

    def text(self) -> str:
        """For Dagster to keep."""
        return msgspec.json.encode(self).decode()


@dg.sensor(
    name="late_data",
    job=refresh,
    minimum_interval_seconds=_INTERVAL_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Reads the archive's log since its last look and refreshes exactly the past days that commits changed. "
        "Compaction changes none, retention leaves what was derived; today is refreshed hourly. A day whose run failed "
        "is asked for again, less and less often; one without a partition is alerted."
    ),
)
def late_data(context: dg.SensorEvaluationContext, platform: PlatformResource) -> dg.SensorResult | dg.SkipReason:
    """Ask for the past days that changed, and again for those that were asked for and are not derived yet."""
    settings, archive = platform.settings(), platform.archive()
    if not archive.exists():
        return dg.SkipReason(NO_ARCHIVE)
    cursor = Cursor.read(context.cursor)
    try:
        found = touched_days(archive, Mark(cursor.table, cursor.version) if cursor else None)
        files = archive.files()  # whoever is asked now reads this version, or a later one
        gone = LetGo.of(files.properties)
        held = archive.rows_by_day(files) if found.gap is not None or not is_fixed(settings) else {}
    except RetriableError as error:
        return dg.SkipReason(f"{error}; the next look begins where this one did")
    kept = cursor if cursor and cursor.table == found.mark.table else Cursor(*found.mark)
    now = today()
    touched = {**{dt.date.fromisoformat(day): version for day, version in kept.pending.items()}, **found.days}
    if found.gap is not None:
        # Days that only a cleaned commit touched cannot be told: all that have rows, or had, may be among them.
        touched = {**dict.fromkeys([*held, *_derived(context.instance)], found.gap), **touched}
    # What came for a day of which all was let go is not the day: what was derived of it stays.
    ended = gone.wholly_until
    touched = {day: version for day, version in touched.items() if ended is None or day > ended}
    reach_back(settings, [*touched, *held])
    first = first_partition(settings, context, _AGGREGATES[0])
    if any(day < first for day in touched):
        held = archive.rows_by_day(files)  # of days never derived only those that still have readings are of interest
        touched = {day: version for day, version in touched.items() if day >= first or day in held}
    due = {day: version for day, version in touched.items() if first <= day < now}
    trained = platform.marts().exists(MODEL.to_user_string())
    assets = [*_AGGREGATES, ANOMALIES] if trained else _AGGREGATES
    stale = _stale(context.instance, assets, due, found.mark.table)
    pending = {str(day): version for day, version in touched.items() if day not in due or day in stale}
    moment = _moment()
    under_way = _under_way(context.instance)
    ask = [day for day in stale if day not in under_way and _is_to_be_asked(kept.asked.get(str(day)), due[day], moment)]
    asked = {day: one for day, one in kept.asked.items() if day in pending}
    asked |= {str(day): _again(kept.asked.get(str(day)), due[day], files.version, moment) for day in ask}
    requests = [_request(window, found.mark, moment) for window in windows(ask)]
    without = sorted(day for day in touched if day < first)
    waiting = told(platform, {str(day): kept.waiting.get(str(day), moment) for day in without}, moment)
    skipped = f"no past day was changed up to version {found.mark.version}"
    if stale:
        skipped = f"{len(stale)} past days were asked for and are not derived yet"
    if without:
        skipped += f"; {len(without)} wait without a partition: {some(without)}"
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else skipped,
        cursor=Cursor(*found.mark, pending, asked, waiting).text(),
    )


def _moment() -> int:
    return int(time.time())


def _is_to_be_asked(before: Asked | None, version: int, moment: int) -> bool:
    """Whether nobody was asked since `version` touched the day, or so long ago that the run must have failed."""
    return before is None or version > before.version or moment - before.at >= before.wait_seconds


def _again(before: Asked | None, version: int, newest: int, moment: int) -> Asked:
    """What is to be remembered of asking now for a day that `version` touched."""
    failed = before is not None and version <= before.version
    return Asked(newest, moment, before.times + 1 if before is not None and failed else 1)


def _under_way(instance: dg.DagsterInstance) -> set[dt.date]:
    """The days of runs that wait or are running: what they make is seen once they have ended."""
    runs = instance.get_runs(dg.RunsFilter(job_name=refresh.name, statuses=NOT_FINISHED_STATUSES))
    found = [window for run in runs if (window := Window.of_tags(run.tags)) is not None]
    return {dt.date.fromisoformat(key) for window in found for key in window.keys}


def _derived(instance: dg.DagsterInstance) -> set[dt.date]:
    """The days that have aggregates, or had."""
    return {dt.date.fromisoformat(key) for asset in _AGGREGATES for key in instance.get_materialized_partitions(asset)}


def _request(window: Window, mark: Mark, moment: int) -> dg.RunRequest:
    return dg.RunRequest(
        # One archive version asks for a window once in that time, even if the cursor could not be kept.
        run_key=f"late-{mark.table}-{mark.version}-{window.first}-{window.last}-{moment // _ASK_AGAIN_SECONDS}",
        tags=window.tags(),
    )


def _stale(
    instance: dg.DagsterInstance, assets: Sequence[dg.AssetKey], touched: Mapping[dt.date, int], table: str
) -> list[dt.date]:
    """The touched days that some asset was not made from the touching version, or a later one, of that archive."""
    fresh: dict[dt.date, int] = dict.fromkeys(touched, 0)
    for asset in assets:
        for batch in _batches(list(touched)):
            for day, version in _made_from(instance, asset, batch, table).items():
                fresh[day] += version >= touched[day]
    return [day for day, count in fresh.items() if count < len(assets)]


def _batches(days: Sequence[dt.date]) -> Iterator[Sequence[dt.date]]:
    for start in range(0, len(days), _LOOKUP_DAYS):
        yield days[start : start + _LOOKUP_DAYS]


def _made_from(
    instance: dg.DagsterInstance, asset: dg.AssetKey, days: Sequence[dt.date], table: str
) -> dict[dt.date, int]:
    """Version of that archive which the newest materialization of each day was made from."""
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=asset, asset_partitions=[str(day) for day in days]), limit=_LOOKUP
    ).records
    made: dict[dt.date, int] = {}
    for record in reversed(records):  # they come newest first: the newest is written last
        found = record.asset_materialization
        if found and found.partition and "archive_version" in found.metadata:
            version = archive_version_of(found, table)
            made[dt.date.fromisoformat(found.partition)] = -1 if version is None else version
    return made
