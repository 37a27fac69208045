"""The hot store of the services setting: InfluxDB 2.7, written in line protocol, read in Flux, by any thread.

Belongs here: the HotStore contract in terms of points and series. Not here: the text of lines and queries, HTTP.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Final, NamedTuple

import polars as pl
import structlog

from sieis_platform import crash
from sieis_platform.reading import FIELDS, READING_SCHEMA
from sieis_platform.stores.hot import (
    AGGREGATE_SCHEMA,
    DAILY_SUMS_SCHEMA,
    LATEST_SCHEMA,
    SUMS,
    AggregatesRefusedError,
    Expired,
    HotStoreError,
    HotStoreUnavailableError,
    Period,
    Retention,
    WriteOutcome,
    check_window,
)
from sieis_platform.stores.influx import answers, lines
from sieis_platform.stores.influx.client import InfluxClient
from sieis_platform.stores.influx.flux import MAX_NS, MIN_NS, Selection, predicate
from sieis_platform.stores.influx.lines import AGGREGATE_FIELDS, AGGREGATES, PRESENT, READINGS, UPDATED
from sieis_platform.timeline import DAY_NS

log = structlog.get_logger(__name__)

#: First window of a read with a limit: 54 motes at 30 s have 6,480 readings an hour.
_FIRST_WINDOW_NS: Final = 3_600 * 1_000_000_000
#: How often `latest` asks for a whole reading of a mote. Measured with 54 rows written again and again without a pause:
#: 31 of 75 queries met a reading half written, most of them one.
_LATEST_ATTEMPTS: Final = 8
_READING_FIELDS: Final = (*FIELDS, PRESENT)
#: Requests of one write that are under way at once. InfluxDB reads the lines of a request on one core.
_LANES: Final = 2
#: Fewer rows than this go as one request: two small ones cost the server more than they save.
_LANE_ROWS: Final = 5_000
#: Requests do not get smaller than this after failures: 180 KB, which a wire of 0.2 Mbit/s carries within 10 s.
_LEAST_REQUEST_ROWS: Final = 1_000
#: Of so many rows (influx_batch_rows by default) not each is bad by itself: what is refused is the whole, and must not
#: be counted as stored or refused row by row.
_NO_COINCIDENCE_ROWS: Final = 100


class _Rows(NamedTuple):
    """Rows with all the values they were written with, and rows that lack some as yet."""

    whole: pl.DataFrame
    torn: pl.DataFrame


class InfluxHotStore:
    """HotStore on the buckets `bucket` (readings, daily aggregates) and `hourly_bucket` of one InfluxDB.

    Readings and daily aggregates older than `retention_days` before `now_ns()` are neither sent nor asked for, hourly
    ones older than `hourly_retention_days` (None: all are); what the server then still refuses as beyond its own
    retention is counted the same. A write larger than `request_rows` takes several requests:
    not atomic, but harmless to repeat. Of a large write `lanes` requests are under way at once, the rows of a mote one
    after the other in one lane: of the same key the last one still wins.
    """

    def __init__(
        self,
        client: InfluxClient,
        *,
        bucket: str,
        hourly_bucket: str,
        retention_days: int | None = 30,
        hourly_retention_days: int | None = 90,
        request_rows: int = 20_000,
        lanes: int = _LANES,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._client = client
        self._buckets: dict[Period, str] = {"daily": bucket, "hourly": hourly_bucket}
        self._bucket = bucket
        self._retention = Retention(retention_days, hourly_retention_days)
        self._most_rows = request_rows
        self._request_rows = request_rows
        self._lanes = lanes
        self._now_ns = now_ns

    def __repr__(self) -> str:
        return f"InfluxHotStore({self._client!r}, bucket={self._bucket!r})"

    # -- writes --------------------------------------------------------------------------------------------------
    def write_readings(self, readings: pl.DataFrame) -> WriteOutcome:
        """See HotStore. Raises: HotStoreUnavailableError (with the server's Retry-After), HotStoreError."""
        rows = readings.select(pl.col(name).cast(dtype) for name, dtype in READING_SCHEMA.items())
        now = self._now_ns()
        rows = rows.filter(pl.col("timestamp") >= self._retention.oldest_ns(now))
        updated = pl.select(_utc_text(pl.lit(now))).item()
        beyond, refused = readings.height - rows.height, 0
        for refusal in self._send_readings(rows, lambda piece: lines.readings(piece, updated)):
            if refusal.beyond_retention:
                beyond += refusal.points
            else:
                refused += refusal.points
        return WriteOutcome(readings.height - beyond - refused, beyond, refused)

    def write_aggregates(self, period: Period, aggregates: pl.DataFrame) -> None:
        """See HotStore. Raises: AggregatesRefusedError, HotStoreUnavailableError, HotStoreError."""
        rows = aggregates.select(pl.col(name).cast(dtype) for name, dtype in AGGREGATE_SCHEMA.items())
        rows = rows.filter(pl.col("period_start") >= self._oldest_ns(period))
        refusals = self._send(self._buckets[period], rows, lambda piece: lines.aggregates(period, piece))
        # Of readings the consumer counts what was refused; of aggregates nobody would know that they are missing.
        if refused := [refusal for refusal in refusals if not refusal.beyond_retention]:
            raise AggregatesRefusedError(
                f"InfluxDB at {self._client.address} refused {sum(refusal.points for refusal in refused)} of "
                f"{rows.height} {period} aggregates ({refused[0].reason}); the others are written. If something else "
                f"has written to {AGGREGATES[period]}, delete its points, then make the aggregates again"
            )

    def replace_aggregates(self, period: Period, aggregates: pl.DataFrame, start_ns: int, end_ns: int) -> None:
        """See HotStore. Raises: AggregatesRefusedError, HotStoreUnavailableError, HotStoreError."""
        check_window(aggregates, start_ns, end_ns)
        self.write_aggregates(period, aggregates)
        for mote, first, last in _stale(self.aggregates(period, start_ns, end_ns), aggregates).iter_rows():
            crash.point("aggregates.before_stale")
            self._delete(self._buckets[period], AGGREGATES[period], first, last + 1, mote)

    def delete_readings(self, start_ns: int, end_ns: int, mote_ids: Sequence[int] | None = None) -> int:
        """See HotStore. InfluxDB does not say what it deleted: the number is what was there just before."""
        removed = self._count(start_ns, end_ns, mote_ids)
        motes = removed.filter(pl.col("rows") > 0)["mote_id"].to_list()
        # Predicates of the delete API know no OR: one request a mote.
        for mote in [None] if mote_ids is None and motes else motes:
            self._delete(self._bucket, READINGS, start_ns, end_ns, mote)
        return int(removed["rows"].sum())

    def expire(self) -> Expired:
        """See HotStore: nothing, the retention of the buckets removes what is old."""
        return Expired()

    def _oldest_ns(self, period: Period = "daily") -> int:
        return self._retention.oldest_ns(self._now_ns(), period)

    def _send_readings(
        self, rows: pl.DataFrame, to_lines: Callable[[pl.DataFrame], pl.Series]
    ) -> list[answers.Refusal]:
        """Send `rows`, many of them in lanes; as `_send`, and of several errors the first is raised."""
        if rows.height > self._request_rows:
            # A shard holds a day: in time order a request writes to one or two of them, not to all days of a few motes.
            rows = rows.sort("timestamp", maintain_order=True)
        if rows.height < self._lanes * _LANE_ROWS or self._request_rows < self._most_rows:
            return self._send(self._bucket, rows, to_lines)  # also over a narrow wire: two would share it
        given_up = threading.Event()
        of_lane = [rows.filter(pl.col("mote_id") % self._lanes == lane) for lane in range(self._lanes)]
        # Leaving the context waits for all, also after an error: nothing may be written once this has returned.
        with ThreadPoolExecutor(self._lanes, thread_name_prefix="influx") as threads:
            under_way = [
                threads.submit(self._pieces, self._bucket, lane, to_lines, given_up)
                for lane in of_lane
                if not lane.is_empty()
            ]
        return [refusal for lane in under_way for refusal in lane.result()]

    def _send(
        self, bucket: str, rows: pl.DataFrame, to_lines: Callable[[pl.DataFrame], pl.Series]
    ) -> list[answers.Refusal]:
        """Send `rows` in requests of the size that got through last; what the server refused of them.

        Raises: HotStoreUnavailableError, HotStoreError.
        """
        refusals = self._pieces(bucket, rows, to_lines, threading.Event())
        self._request_rows = min(self._most_rows, self._request_rows * 2)
        return refusals

    def _pieces(
        self, bucket: str, rows: pl.DataFrame, to_lines: Callable[[pl.DataFrame], pl.Series], given_up: threading.Event
    ) -> list[answers.Refusal]:
        """Send `rows` piece by piece, but nothing more once `given_up` is set, as it is with an error here.

        A server that asks one lane to be left alone is asking all.
        """
        refusals: list[answers.Refusal] = []
        for piece in rows.iter_slices(self._request_rows):
            batch = to_lines(piece)
            if given_up.is_set():
                break  # whoever set it raises
            try:
                refusals += self._write(bucket, batch)
            except HotStoreUnavailableError:
                given_up.set()
                self._request_rows = min(self._most_rows, max(_LEAST_REQUEST_ROWS, piece.height // 2))
                raise
            except HotStoreError:
                given_up.set()
                raise
        return refusals

    def _delete(self, bucket: str, measurement: str, start_ns: int, end_ns: int, mote: int | None) -> None:
        """Delete the points of a measurement with start_ns <= time < end_ns, of one mote or of all."""
        # The interval of the delete API is closed.
        span = {"start": _rfc3339(max(start_ns, MIN_NS)), "stop": _rfc3339(min(end_ns - 1, MAX_NS))}
        self._client.delete(bucket, {**span, "predicate": predicate(measurement, mote)})

    def _write(self, bucket: str, batch: pl.Series) -> list[answers.Refusal]:
        """Send lines; what the server refused of them.

        Raises: HotStoreUnavailableError, HotStoreError (also where it refused so many, and all of them).
        """
        refusals = self._halved(bucket, batch) if len(batch) else []
        refused = [refusal for refusal in refusals if not refusal.beyond_retention]
        if len(batch) >= _NO_COINCIDENCE_ROWS and sum(refusal.points for refusal in refused) >= len(batch):
            raise answers.all_refused(self._client.address, len(batch), refused[0].reason)
        return refusals

    def _halved(self, bucket: str, batch: pl.Series) -> list[answers.Refusal]:
        """Send one request of lines, again by halves where a line costs the others; what the server refused of them."""
        answer = self._client.write(bucket, lines.text(batch))
        if answer.status_code == HTTPStatus.NO_CONTENT:
            return []
        refusal = answers.refusal(answer)
        if refusal is not None:
            if not refusal.beyond_retention:
                log.error("InfluxDB refused points", bucket=bucket, points=refusal.points, reason=refusal.reason)
            return [refusal]
        if answer.status_code == HTTPStatus.UNPROCESSABLE_ENTITY:
            raise answers.error(self._client.address, answer)
        # Whoever stands before InfluxDB knows no lines: only a request too large for him (413) is worth halving.
        too_large = answer.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE and len(batch) > 1
        if not answers.is_influx(answer) and not too_large:
            raise answers.stranger(self._client.address, answer)
        # 400 and 413 take nothing of the batch: halve it until the bad lines stand alone, so that the others are kept.
        if len(batch) > 1:
            half = len(batch) // 2
            return [*self._halved(bucket, batch[:half]), *self._halved(bucket, batch[half:])]
        said = answers.reason(answer)
        log.error("InfluxDB refused a point", bucket=bucket, points=1, reason=said)
        return [answers.Refusal(1, beyond_retention=False, reason=said)]

    # -- reads ---------------------------------------------------------------------------------------------------
    def latest(self, mote_ids: Sequence[int] | None = None) -> pl.DataFrame:
        """See HotStore: the last value of each series."""
        if mote_ids is not None and not mote_ids:
            return pl.DataFrame(schema=LATEST_SCHEMA)
        fields = (*_READING_FIELDS, UPDATED)
        oldest = self._oldest_ns()
        asked = [Selection(self._bucket, READINGS, fields, oldest, MAX_NS, mote_ids)]
        found: list[pl.DataFrame] = []
        for attempt in range(_LATEST_ATTEMPTS):
            # A field that the newest reading lacks comes with an older time: it joins nothing.
            parts = [self._rows(selection.last(), FIELDS, also=(UPDATED,)) for selection in asked]
            found += [part.whole for part in parts]
            # Read up to the half-written reading again: its write takes milliseconds, and later ones do not disturb.
            # Where it hangs half-way, the newest is still the one before.
            more = 1 if attempt < _LATEST_ATTEMPTS // 2 else 0
            asked = [
                Selection(self._bucket, READINGS, fields, oldest, ns + more, motes)
                for part in parts
                for ns, motes in part.torn.group_by("timestamp").agg("mote_id").iter_rows()
                if ns + more > oldest  # Flux takes no empty range
            ]
        return pl.concat(found).select(LATEST_SCHEMA.names()).cast(LATEST_SCHEMA).sort("mote_id")

    def readings(
        self, start_ns: int, end_ns: int, mote_ids: Sequence[int] | None = None, limit: int | None = None
    ) -> pl.DataFrame:
        """See HotStore. With a limit, rows are looked for in windows that double, so that a page reads about a page."""
        start_ns = max(start_ns, self._oldest_ns())
        if limit is None:
            return self._readings(start_ns, end_ns, mote_ids)
        found = [pl.DataFrame(schema=READING_SCHEMA)]
        missing, width = limit, _FIRST_WINDOW_NS
        while missing > 0 and (first := self._first(start_ns, end_ns, mote_ids)) is not None:
            start_ns, window_end = first, min(first + width, end_ns)
            found.append(self._readings(start_ns, window_end, mote_ids).head(missing))
            missing -= found[-1].height
            start_ns, width = window_end, 2 * width
        return pl.concat(found)

    def count_readings(self, start_ns: int | None = None, end_ns: int | None = None) -> int:
        """See HotStore."""
        oldest = self._oldest_ns()
        start_ns = oldest if start_ns is None else max(start_ns, oldest)
        counts = self._count(start_ns, MAX_NS if end_ns is None else end_ns, None)
        return int(counts["rows"].sum())

    def daily_sums(self, start_ns: int, end_ns: int) -> pl.DataFrame:
        """See HotStore. A value that was overwritten by null is still there, and counts: only a row's bits tell."""
        start_ns = max(start_ns, self._oldest_ns())
        if _nothing(start_ns, end_ns, None):
            return pl.DataFrame(schema=DAILY_SUMS_SCHEMA)
        key = ["mote_id", "timestamp"]
        counts = Selection(self._bucket, READINGS, (PRESENT,), start_ns, end_ns)
        counted = self._values(counts.daily("count"), pl.Int64()).filter(pl.col("_field") == PRESENT)
        frame = counted.select(*key, pl.col("_value").alias("readings"))
        sums = self._values(Selection(self._bucket, READINGS, FIELDS, start_ns, end_ns).daily("sum"), pl.Float64())
        for name, field in SUMS.items():
            added = sums.filter(pl.col("_field") == field).select(*key, pl.col("_value").alias(name))
            frame = frame.join(added, on=key, how="left").with_columns(pl.col(name).fill_null(0.0))
        # The first day of the range is told by where the range starts.
        day = pl.col("timestamp") - pl.col("timestamp") % DAY_NS
        rows = frame.with_columns(day.alias("day_start")).select(DAILY_SUMS_SCHEMA.names())
        return rows.cast(DAILY_SUMS_SCHEMA).sort("day_start", "mote_id")

    def aggregates(
        self, period: Period, start_ns: int, end_ns: int, mote_ids: Sequence[int] | None = None
    ) -> pl.DataFrame:
        """See HotStore."""
        start_ns = max(start_ns, self._oldest_ns(period))
        if _nothing(start_ns, end_ns, mote_ids):
            return pl.DataFrame(schema=AGGREGATE_SCHEMA)
        fields = (*AGGREGATE_FIELDS, PRESENT)
        asked = Selection(self._buckets[period], AGGREGATES[period], fields, start_ns, end_ns, mote_ids)
        rows = self._settled(asked.all(), AGGREGATE_FIELDS).rename({"timestamp": "period_start"})
        return rows.select(AGGREGATE_SCHEMA.names()).cast(AGGREGATE_SCHEMA).sort("period_start", "mote_id")

    def ping(self) -> None:
        """See HotStore; the token must be good and show the bucket."""
        found = self._client.api("GET", "/buckets", params={"org": self._client.org, "name": self._bucket})
        if not found.get("buckets"):
            raise HotStoreError(f"InfluxDB at {self._client.address} has no bucket {self._bucket}; run `sieis setup`")

    def close(self) -> None:
        """See HotStore."""
        self._client.close()

    def _readings(self, start_ns: int, end_ns: int, mote_ids: Sequence[int] | None) -> pl.DataFrame:
        if _nothing(start_ns, end_ns, mote_ids):
            return pl.DataFrame(schema=READING_SCHEMA)
        asked = Selection(self._bucket, READINGS, _READING_FIELDS, start_ns, end_ns, mote_ids)
        rows = self._settled(asked.all(), FIELDS)
        return rows.select(READING_SCHEMA.names()).cast(READING_SCHEMA).sort("timestamp", "mote_id")

    def _first(self, start_ns: int, end_ns: int, mote_ids: Sequence[int] | None) -> int | None:
        """Time of the first reading."""
        if _nothing(start_ns, end_ns, mote_ids):
            return None
        asked = Selection(self._bucket, READINGS, (PRESENT,), start_ns, end_ns, mote_ids)
        first = self._values(asked.first(), pl.Float64())["timestamp"].min()
        return first if isinstance(first, int) else None

    def _count(self, start_ns: int, end_ns: int, mote_ids: Sequence[int] | None) -> pl.DataFrame:
        """Columns mote_id, rows."""
        schema = {"mote_id": pl.Int64(), "_value": pl.Int64()}
        if _nothing(start_ns, end_ns, mote_ids):
            return pl.DataFrame(schema={"mote_id": pl.Int64(), "rows": pl.Int64()})
        asked = Selection(self._bucket, READINGS, (PRESENT,), start_ns, end_ns, mote_ids)
        return self._client.query(asked.count(), schema).rename({"_value": "rows"})

    def _settled(self, flux: str, fields: Sequence[str]) -> pl.DataFrame:
        """Columns mote_id, timestamp, `fields` of the rows; read again if one was being written or overwritten."""
        rows = self._rows(flux, fields)
        if not rows.torn.is_empty():
            rows = self._rows(flux, fields)
        return rows.whole

    def _rows(self, flux: str, fields: Sequence[str], also: Sequence[str] = ()) -> _Rows:
        """Columns mote_id, timestamp, `fields` and `also`.

        InfluxDB reads series by series: of a write between two of them one field is seen and the other is not.
        """
        rows = _wide(self._values(flux, pl.String() if also else pl.Float64()), (*fields, PRESENT, *also))
        rows = rows.with_columns(pl.col(*fields, PRESENT).cast(pl.Float64))
        bits = range(len(fields))
        whole = pl.all_horizontal(_is_present(bit) <= pl.col(fields[bit]).is_not_null() for bit in bits)
        values = [pl.when(_is_present(bit)).then(pl.col(fields[bit])) for bit in bits]
        return _Rows(rows.filter(whole).with_columns(values), rows.filter(~whole))

    def _values(self, flux: str, kind: pl.DataType) -> pl.DataFrame:
        """Columns mote_id, timestamp, _field, _value (of `kind`)."""
        schema = {"_time": pl.String(), "_value": kind, "_field": pl.String(), "mote_id": pl.Int32()}
        frame = self._client.query(flux, schema)
        moment = pl.col("_time").str.to_datetime("%Y-%m-%dT%H:%M:%S%.fZ", time_unit="ns", strict=True)
        return frame.select("mote_id", moment.cast(pl.Int64).alias("timestamp"), "_field", "_value")


def _utc_text(ns: pl.Expr) -> pl.Expr:
    """Unix ns as ISO 8601 text, UTC, with microseconds."""
    return pl.from_epoch(ns, time_unit="ns").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")


def _nothing(start_ns: int, end_ns: int, mote_ids: Sequence[int] | None) -> bool:
    """Whether an interval (which Flux must not be given empty) or list of motes holds nothing."""
    return max(start_ns, MIN_NS) >= min(end_ns, MAX_NS) or (mote_ids is not None and not mote_ids)


def _stale(there: pl.DataFrame, wanted: pl.DataFrame) -> pl.DataFrame:
    """Columns mote_id, first, last: spans of period_start in which a mote has points, and none of them is wanted."""
    key = ["mote_id", "period_start"]
    wanted = wanted.select(pl.col(name).cast(AGGREGATE_SCHEMA[name]) for name in key).with_columns(kept=True)
    marked = there.select(key).join(wanted, on=key, how="left").sort(key)
    kept = pl.col("kept").is_not_null()
    # One request a run of neighbours instead of one a point: a mote whose whole day is gone is one request.
    runs = marked.with_columns(kept.rle_id().over("mote_id").alias("run")).filter(~kept)
    spans = runs.group_by("mote_id", "run", maintain_order=True)
    return spans.agg(pl.col("period_start").min().alias("first"), pl.col("period_start").max().alias("last")).drop(
        "run"
    )


def _wide(values: pl.DataFrame, fields: Sequence[str]) -> pl.DataFrame:
    """One row a mote and time with a column a field; rows are there where PRESENT is."""
    key = ["mote_id", "timestamp"]
    columns = {
        name: values.filter(pl.col("_field") == name).select(*key, pl.col("_value").alias(name)) for name in fields
    }
    frame = columns[PRESENT]
    for name in fields:
        if name != PRESENT:
            frame = frame.join(columns[name], on=key, how="left")
    return frame


def _is_present(bit: int) -> pl.Expr:
    """Whether the row was written with this field, whatever an overwritten row has left there; see PRESENT."""
    return (pl.col(PRESENT).cast(pl.Int64) // (1 << bit)) % 2 == 1


def _rfc3339(ns: int) -> str:
    return pl.select(pl.from_epoch(pl.lit(ns), time_unit="ns").dt.strftime("%Y-%m-%dT%H:%M:%S%.9fZ")).item()
