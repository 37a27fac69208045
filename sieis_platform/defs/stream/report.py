"""Keeps the external assets current by what the consumer reports of itself: offsets, lag, time of the last reading.

Belongs here: when an asset is told anew, and what is told. Not here: asking the consumer (sieis_streaming.reported).
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import dagster as dg
import msgspec
import polars as pl

from sieis_platform.defs.archive.assets import ARCHIVE
from sieis_platform.defs.archive.assets import LINEAGE as ARCHIVE_LINEAGE
from sieis_platform.defs.archive.told import told_of
from sieis_platform.defs.cursors import decoded_or_new
from sieis_platform.defs.metadata import moment, preview_of
from sieis_platform.defs.resources import PlatformResource
from sieis_platform.defs.stream.assets import HOT_LINEAGE, HOT_STORE, TOPIC
from sieis_platform.defs.stream.hot import told_of_hot
from sieis_platform.defs.stream.ledger import gap_text, places, stream_since, told_of_places
from sieis_platform.errors import RetriableError, SieisError
from sieis_platform.state import NewAlert
from sieis_platform.stores.since import Mark
from sieis_streaming.reported import ConsumerDownError, NotConsumerMetricsError, Reported, SinkReport, read_reported

#: What a cursor costs that cannot be read.
_ANEW: Final = (
    "consumers are got to know anew, and losses counted from where the archive's log begins; some may be told again"
)
_LOOK_SECONDS: Final = 30
#: An asset that changes all the time is told this often: freshness is judged in quarters of an hour, and every event is
#: kept by Dagster for good.
_TELL_SECONDS: Final = 300
#: A consumer that is restarted or redeployed is back within this time.
_DOWN_SECONDS: Final = 300
_PARTITIONS_SHOWN: Final = 12
_SUBJECT_CHARACTERS: Final = 500  # as long as the state keeps them


class _Told(msgspec.Struct):
    """What was last told of an asset, and when (Unix seconds)."""

    at: float
    state: str


class _Consumer(msgspec.Struct):
    """One that has answered before: since when it is silent, when that was alerted."""

    silent_since: float | None = None
    alerted_at: float | None = None


class _Cursor(msgspec.Struct):
    """What was told by asset, the consumers by their address, and how far the archive's ledger was read."""

    told: dict[str, _Told] = {}
    consumers: dict[str, _Consumer] = {}
    ledger: Mark | None = None


@dg.sensor(
    name="consumer_report",
    minimum_interval_seconds=_LOOK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells of the topic and both stores what the consumer reports; alerts when it is down or lost records.",
)
def consumer_report(context: dg.SensorEvaluationContext, platform: PlatformResource) -> dg.SensorResult | dg.SkipReason:
    """Read the metrics; tell each asset whose state has changed, at most every _TELL_SECONDS."""
    cursor = decoded_or_new(context, _Cursor, _ANEW)
    now = time.time()
    urls = platform.settings().consumer_metrics
    try:
        reported = read_reported(urls)
    except (ConsumerDownError, NotConsumerMetricsError) as error:
        _alert_of_silence(cursor, urls, now, platform)
        _alert_of_losses(cursor, platform, context.log)
        return dg.SensorResult(skip_reason=str(error), cursor=msgspec.json.encode(cursor).decode())
    for url in urls:
        if url not in reported.silent:
            cursor.consumers.setdefault(url, _Consumer())
    _alert_of_silence(cursor, reported.silent, now, platform)
    _alert_of_losses(cursor, platform, context.log)
    events = []
    for key, state, describe in _assets(reported):
        told = cursor.told.get(key.to_user_string())
        if told is not None and (told.state == state or now - told.at < _TELL_SECONDS):
            continue
        events.append(dg.AssetMaterialization(key, metadata=describe(platform)))
        cursor.told[key.to_user_string()] = _Told(now, state)
    text = msgspec.json.encode(cursor).decode()
    if not events:
        return dg.SensorResult(skip_reason="nothing has changed, or was told within 5 minutes", cursor=text)
    return dg.SensorResult(asset_events=events, cursor=text)


def _alert_of_silence(cursor: _Cursor, silent: Sequence[str], now: float, platform: PlatformResource) -> None:
    """An alert for each consumer that has been there and is gone for good: at once, then at most once a cooldown."""
    cooldown = platform.settings().alert_cooldown_seconds
    for url, consumer in cursor.consumers.items():
        if url not in silent:
            consumer.silent_since = consumer.alerted_at = None
            continue
        if consumer.silent_since is None:
            consumer.silent_since = now
        told = consumer.alerted_at is not None and now - consumer.alerted_at < cooldown
        if told or now - consumer.silent_since < _DOWN_SECONDS:
            continue
        alert = NewAlert(
            f"consumer/down/{url}"[:_SUBJECT_CHARACTERS],
            "The consumer is down",
            f"No consumer answers at {url} since {moment(consumer.silent_since)}: start it (`sieis consume`), or "
            "correct SIEIS_METRICS_URLS.",
            "failure",
        )
        with platform.alerts() as alerts:
            alerts.raise_alert(alert)
        consumer.alerted_at = time.time()


def _alert_of_losses(cursor: _Cursor, platform: PlatformResource, log: logging.Logger) -> None:
    """One alert of what the archive's ledger has taken in as lost since the last look; consumers may be silent."""
    archive = platform.archive()
    if not archive.exists():
        return
    try:
        seen = stream_since(archive, cursor.ledger)
    except RetriableError as error:
        log.warning(f"{error}; the next look for losses begins where this one did")
        return
    if seen.gap is not None and cursor.ledger is not None:
        log.warning(gap_text(seen.gap))
    found = places(seen.entries, "lost")
    if new := int(found["records"].sum()):
        alert = NewAlert(
            "consumer/lost",
            f"{new:,} records were lost",
            f"The broker deleted them before they were read: {told_of_places(found)}. `sieis verify` shows the gap; if "
            "the source still has the readings, load them as a file.",
            "failure",
        )
        with platform.alerts() as alerts:
            alerts.raise_alert(alert)
    cursor.ledger = seen.mark


def _assets(reported: Reported) -> Iterator[tuple[dg.AssetKey, str, Any]]:
    """Each asset the report is about, what its state is, and how to describe it."""
    sinks = reported.sinks
    ends: dict[int, int] = {}
    for sink in sinks.values():
        ends |= {part: max(end, ends.get(part, 0)) for part, end in sink.ends.items()}
    events = [sink.last_event_seconds for sink in sinks.values() if sink.last_event_seconds]
    if ends:
        newest = max(events, default=None)
        yield TOPIC, str(sorted(ends.items())), lambda _: _topic(ends, sinks, newest)
    if (hot := sinks.get("hot")) is not None and hot.stored:
        yield HOT_STORE, _state(hot), lambda platform: {**_offsets(hot), **HOT_LINEAGE, **_hot(platform)}
    if (archive := sinks.get("archive")) is not None and archive.stored:
        yield ARCHIVE, _state(archive), lambda platform: {**_offsets(archive), **ARCHIVE_LINEAGE, **_archive(platform)}


def _state(sink: SinkReport) -> str:
    return str((sorted(sink.stored.items()), sink.last_event_seconds))


def _topic(ends: Mapping[int, int], sinks: Mapping[str, SinkReport], newest: float | None) -> dict[str, Any]:
    return {
        "dagster/row_count": sum(ends.values()),
        "end_offsets": dg.MetadataValue.json(_text_keys(ends)),
        "last": moment(newest),
        "preview": preview_of(_partitions(ends, sinks), rows=_PARTITIONS_SHOWN),
        **{f"lag_{name}": sum(sink.lag.values()) for name, sink in sinks.items()},
    }


def _partitions(ends: Mapping[int, int], sinks: Mapping[str, SinkReport]) -> pl.DataFrame:
    """One row a partition: its end, and how far each store is."""
    stored = {f"stored_{name}": [sink.stored.get(part) for part in sorted(ends)] for name, sink in sinks.items()}
    columns = {"partition": sorted(ends), "end": [ends[part] for part in sorted(ends)], **stored}
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.Int64))


def _offsets(sink: SinkReport) -> dict[str, Any]:
    return {
        "stored_offsets": dg.MetadataValue.json(_text_keys(sink.stored)),
        "lag": sum(sink.lag.values()),
        "last": moment(sink.last_event_seconds),
        "written_since_start": sink.records_written,
        "duplicates_since_start": sink.duplicates,
        "errors_since_start": sink.errors,
    }


def _hot(platform: PlatformResource) -> dict[str, Any]:
    """Rows, first moment and the live values; where the store does not answer, that: the rest is told all the same."""
    try:
        with platform.hot() as hot:
            return told_of_hot(hot)
    except SieisError as error:
        return {"unavailable": str(error)}


def _archive(platform: PlatformResource) -> dict[str, Any]:
    """Version and weight, from the log."""
    try:
        archive = platform.archive()
        return told_of(archive, archive.files())
    except SieisError as error:
        return {"unavailable": str(error)}


def _text_keys(offsets: Mapping[int, int]) -> dict[str, int]:
    return {str(partition): offset for partition, offset in sorted(offsets.items())}


def definitions() -> dg.Definitions:
    """The sensor."""
    return dg.Definitions(sensors=[consumer_report])
