"""The care of the archive as assets: what each run did, with its history in the UI.

Belongs here: which day or table is cared for, and what is told of it. Not here: how (stores.upkeep), when (jobs).
"""

import datetime as dt
from typing import Final

import dagster as dg
import msgspec
import polars as pl

from sieis_platform import crash
from sieis_platform.analysis.storage import (
    REPORT_SCHEMA,
    SAMPLE_ROWS,
    Report,
    message_bytes,
    ratio,
    report_row,
    weigh,
)
from sieis_platform.defs.archive.assets import ARCHIVE
from sieis_platform.defs.archive.snapshot import Snapshot
from sieis_platform.defs.archive.told import told_of
from sieis_platform.defs.failures import dagster_failures
from sieis_platform.defs.metadata import OWNERS, columns, kept, labels, lineage, lineage_of, same_columns
from sieis_platform.defs.partitions import Window, today
from sieis_platform.defs.quality.guard import require_sound
from sieis_platform.defs.resources import PlatformResource
from sieis_platform.reading import ARCHIVE_PARTITIONS, KEY, READING_SCHEMA
from sieis_platform.stores.archive import ARCHIVE_SCHEMA
from sieis_platform.stores.cold import moved_until
from sieis_platform.stores.ledger import LEDGER_MART, LEDGER_SCHEMA
from sieis_platform.stores.tiers import movable_days, move_day
from sieis_platform.stores.upkeep import compact_day, drop_superseded, expire, last_expired, vacuum

OPEN_DAY: Final = dg.AssetKey("archive_open_day")
CLOSED_DAYS: Final = dg.AssetKey("archive_closed_days")
COLD_DAYS: Final = dg.AssetKey("archive_cold_days")
RETENTION: Final = dg.AssetKey("archive_retention")
LEDGER: Final = dg.AssetKey(LEDGER_MART)
VACUUM: Final = dg.AssetKey("archive_vacuum")
STORAGE_REPORT: Final = dg.AssetKey("storage_report")

#: Steps that rewrite the archive's files wait for each other: two of them on one folder would refuse one another.
POOL: Final = "archive"
_GROUP: Final = "archive"
_SHOWN: Final = 5
_SUMMARY: Final = "_metrics/summary.json"
#: How the storage report names the cold table; `archive` is the live one.
_COLD_TABLE: Final = "archive_cold"
#: What stands in the table afterwards is what stood there before, but for rows let go.
_SAME_ROWS: Final = {**columns(ARCHIVE_SCHEMA), **lineage(same_columns(ARCHIVE_SCHEMA.names(), ARCHIVE))}
#: Counts of rows by the place they came from; the rest of the ledger is about commits, not about columns.
_LEDGER_LINEAGE: Final = lineage(
    {
        "app": [(ARCHIVE, "source"), (ARCHIVE, "source_partition")],
        **{name: [(ARCHIVE, "source_offset")] for name in ("start", "end", "stored")},
        **same_columns(("source", "source_partition"), ARCHIVE),
        "rows": [(ARCHIVE, "source_offset")],
    }
)
_REPORT_LINEAGE: Final = lineage(
    {
        "rows": [(ARCHIVE, name) for name in KEY],
        "bytes": [(ARCHIVE, name) for name in ARCHIVE_SCHEMA.names()],
        "days": [(ARCHIVE, name) for name in ARCHIVE_PARTITIONS],
        "raw_bytes": [(ARCHIVE, name) for name in READING_SCHEMA.names()],
    }
)


@dg.asset(
    key=OPEN_DAY,
    deps=[ARCHIVE],
    group_name=_GROUP,
    kinds={"deltalake"},
    owners=OWNERS,
    tags=labels("operations", "archive"),
    metadata=_SAME_ROWS,
    pool=POOL,
    description="Today's small files put together, one a mote; the stream writes on meanwhile.",
)
def archive_open_day(context: dg.AssetExecutionContext, platform: PlatformResource) -> dg.MaterializeResult:
    """Compact the day the stream writes to, and the one before while its last rows still come."""
    day = today()
    with dagster_failures():
        archive = platform.archive()
        done = [compact_day(archive, one) for one in (day - dt.timedelta(days=1), day)]
        told = told_of(archive, archive.files(), Window(day - dt.timedelta(days=1), day))
    removed, added = sum(one.removed for one in done), sum(one.added for one in done)
    context.log.info("%s: %d files became %d", day, removed, added)
    return dg.MaterializeResult(
        metadata={
            **told,
            **lineage_of(_SAME_ROWS),
            "day": day.isoformat(),
            "files_removed": removed,
            "files_added": added,
        }
    )


def closed_days_asset(days: dg.DailyPartitionsDefinition) -> dg.AssetsDefinition:
    """The asset of days whose readings are complete: one row a key, one file a mote."""

    @dg.asset(
        key=CLOSED_DAYS,
        deps=[ARCHIVE],
        partitions_def=days,
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=_GROUP,
        kinds={"deltalake", "polars"},
        owners=OWNERS,
        tags=labels("operations", "archive"),
        metadata=_SAME_ROWS,
        pool=POOL,
        description="Days put in their final form: of repeated keys the last written stays, the others are removed and "
        "accounted for in the ledger; then one file a mote.",
    )
    def archive_closed_days(context: dg.AssetExecutionContext, platform: PlatformResource) -> dg.MaterializeResult:
        window = Window.of_keys(context.partition_key_range)
        superseded = removed = added = 0
        with dagster_failures():
            archive = platform.archive()
            require_sound(Snapshot.of(archive), window)  # a row that is dropped here is evidence no more
            for key in window.keys:
                day = dt.date.fromisoformat(key)
                superseded += drop_superseded(archive, day)
                done = compact_day(archive, day)
                removed, added = removed + done.removed, added + done.added
            # The next reader of the table has the final files at once instead of replaying how they came about.
            with archive.reading():
                archive.table().create_checkpoint()
            told = told_of(archive, archive.files(), window)
        context.log.info("%s to %s: %d rows superseded, %d files became %d", window.first, window.last, superseded,
                         removed, added)  # fmt: skip
        return dg.MaterializeResult(
            metadata={
                **told,
                **lineage_of(_SAME_ROWS),
                "superseded_rows": superseded,
                "files_removed": removed,
                "files_added": added,
            }
        )

    return archive_closed_days


@dg.asset(
    key=COLD_DAYS,
    deps=[ARCHIVE],
    group_name=_GROUP,
    kinds={"deltalake", "polars"},
    owners=OWNERS,
    tags=labels("operations", "archive"),
    metadata=_SAME_ROWS,
    pool=POOL,
    description="Days older than `archive_cold_after_days` moved, closed, into the table at `archive_cold_uri`, and "
    "what came late for days that were moved before. Every reader sees both tables as one archive.",
)
def archive_cold_days(context: dg.AssetExecutionContext, platform: PlatformResource) -> dg.MaterializeResult:
    """Move day by day: what a run that is ended half-way has not moved, the next one moves."""
    settings = platform.settings()
    crash.arm(settings.crash_at)
    days = rows = superseded = 0
    with dagster_failures():
        archive = platform.archive()
        last = last_expired(today(), settings.archive_cold_after_days)
        for day in movable_days(archive, last) if settings.archive_cold_uri else []:
            require_sound(Snapshot.of(archive), Window(day, day))  # moving closes the day
            done = move_day(archive, day)
            days, rows, superseded = days + done.days, rows + done.rows, superseded + done.superseded
            context.log.info("%s: %d rows moved", day, done.rows)
        if days:
            with archive.reading():
                archive.table().create_checkpoint()
        files = archive.files()
        told = told_of(archive, files)
        until = moved_until(files.properties)
    return dg.MaterializeResult(
        metadata={
            **told,
            **lineage_of(_SAME_ROWS),
            "days_moved": days,
            "rows_moved": rows,
            "superseded_rows": superseded,
            "moved_until": until.isoformat() if until else "never",
            "cold_uri": settings.archive_cold_uri,
        }
    )


@dg.asset(
    key=RETENTION,
    deps=[ARCHIVE],
    group_name=_GROUP,
    kinds={"deltalake"},
    owners=OWNERS,
    tags=labels("operations", "archive"),
    metadata=_SAME_ROWS,
    pool=POOL,
    description="Days older than the retention taken out of the archive, each row accounted for in the ledger. Their "
    "files go with the next vacuum after its horizon.",
)
def archive_retention(context: dg.AssetExecutionContext, platform: PlatformResource) -> dg.MaterializeResult:
    """Remove what the settings let go."""
    settings = platform.settings()
    days, motes = settings.archive_retention_days, settings.archive_retention_motes
    with dagster_failures():
        archive = platform.archive()
        expired = expire(archive, today(), days, motes)
        told = told_of(archive, archive.files())
    context.log.info("%d rows are older than the archive keeps them", expired)
    return dg.MaterializeResult(
        metadata={
            **told,
            **lineage_of(_SAME_ROWS),
            "expired_rows": expired,
            "retention_days": "for ever" if days is None else str(days),
            "retention_days_of_motes": dg.MetadataValue.json({str(mote): kept for mote, kept in motes.items()}),
        }
    )


@dg.asset(
    key=LEDGER,
    deps=[ARCHIVE],
    group_name=_GROUP,
    kinds={"deltalake"},
    owners=OWNERS,
    tags=labels("operations", "marts"),
    description="The ledger of every commit, copied from the archive's log before the log is cleaned up. Not to be "
    "rebuilt after that: it belongs in the backup.",
    metadata={**columns(LEDGER_SCHEMA, {"committed_at": "Unix ns, UTC"}), **_LEDGER_LINEAGE},
)
def ledger(context: dg.AssetExecutionContext, platform: PlatformResource) -> dg.MaterializeResult:
    """Copy what the log has and the copy has not."""
    with dagster_failures():
        archive = platform.archive()
        copied = archive.copy_ledger()
        covered = archive.ledger_covered()
        marts = platform.marts()
        with marts.reading(LEDGER_MART):
            mart = marts.scan(LEDGER_MART)
            newest = mart.sort("version", "kind", descending=True).head(_SHOWN).collect()
            first, last = mart.select(pl.col("committed_at").min(), last=pl.col("committed_at").max()).collect().row(0)
        weight = marts.info(LEDGER_MART)
    context.log.info("%d commits copied, up to version %d", copied, covered)
    return dg.MaterializeResult(
        metadata={
            **kept(weight.rows, newest, mart_version=weight.version, times=(first, last)),
            **_LEDGER_LINEAGE,
            "commits_copied": copied,
            "covered_to_version": covered,
        }
    )


@dg.asset(
    key=VACUUM,
    deps=[ARCHIVE, LEDGER],
    group_name=_GROUP,
    kinds={"deltalake"},
    owners=OWNERS,
    tags=labels("operations", "archive"),
    metadata=_SAME_ROWS,
    pool=POOL,
    description="Files and log entries that no version within the horizon needs, deleted in archive and marts.",
)
def archive_vacuum(context: dg.AssetExecutionContext, platform: PlatformResource) -> dg.MaterializeResult:
    """Checkpoint, vacuum, clean up the log; the marts are compacted first."""
    hours = platform.settings().archive_vacuum_hours
    with dagster_failures():
        archive = platform.archive()
        cleaned = vacuum(archive, hours)
        told = told_of(archive, archive.files())
        marts = platform.marts()
        tidied = {name: marts.tidy(name, hours) for name in marts.tables()}
    context.log.info("archive: %d files and %d log entries deleted", cleaned.files, cleaned.log_entries)
    return dg.MaterializeResult(
        metadata={
            **told,
            **lineage_of(_SAME_ROWS),
            "files_deleted": cleaned.files,
            "log_entries_deleted": cleaned.log_entries,
            "horizon_hours": hours,
            "marts": dg.MetadataValue.json({name: done._asdict() for name, done in tidied.items()}),
        }
    )


@dg.asset(
    key=STORAGE_REPORT,
    deps=[ARCHIVE, VACUUM],
    group_name=_GROUP,
    kinds={"deltalake", "polars"},
    owners=OWNERS,
    tags=labels("operations", "marts"),
    description="Files, bytes, small files of the archive (live and cold) and every mart, one row a table and day; of "
    "the archive also how many times smaller it is than the messages. The same as `_metrics/summary.json` beside the "
    "archive.",
    metadata={**columns(REPORT_SCHEMA, {"measured_at": "Unix ns, UTC"}), **_REPORT_LINEAGE},
)
def storage_report(context: dg.AssetExecutionContext, platform: PlatformResource) -> dg.MaterializeResult:
    """Weigh all tables; today's rows are replaced, so that each day ends with its last measurement."""
    moment = dt.datetime.now(dt.UTC)
    settings = platform.settings()
    with dagster_failures():
        archive, marts = platform.archive(), platform.marts()
        small = settings.archive_small_file_bytes
        files = archive.files()
        weight = weigh(files, small)
        sample = Snapshot(archive, files).sample(SAMPLE_ROWS)
        moved = archive.cold_files(files)
        cold = None if moved is None else weigh(moved, small)
        report = Report(
            **weight._replace(days=weight.days or 0)._asdict(),
            measured_at=moment,
            small_file_bytes=small,
            raw_bytes=(raw := round(message_bytes(sample) * weight.rows)),
            compression_ratio=ratio(raw, weight.bytes),
            ledger_copied_to_version=archive.ledger_covered(),
            cold=None if cold is None else cold._asdict(),
        )
        rows = [report_row("archive", weight, moment, raw)]
        if cold is not None:
            rows.append(report_row(_COLD_TABLE, cold, moment, round(message_bytes(sample) * cold.rows)))
        rows += [report_row(name, weigh(marts.files(name), small), moment) for name in marts.tables()]
        frame = pl.concat(rows)
        name = STORAGE_REPORT.to_user_string()
        version_made = marts.replace_days(name, frame, moment.date(), moment.date())
        measured = marts.info(name).rows
        with marts.reading(name):
            times = marts.scan(name).select(pl.col("measured_at").min(), last=pl.col("measured_at").max()).collect()
            measured_from_to = times.row(0)
        archive.put(_SUMMARY, msgspec.json.format(msgspec.json.encode(report), indent=2))
    context.log.info("archive: %d files, %d of them small", report.files, report.small_files)
    return dg.MaterializeResult(
        metadata={
            **kept(measured, frame, mart_version=version_made, times=measured_from_to),
            **_REPORT_LINEAGE,
            **{name: getattr(report, name) for name in ("version", "files", "small_files", "bytes", "rows", "days")},
            "cold_files": cold.files if cold else 0,
            "cold_rows": cold.rows if cold else 0,
            "cold_bytes": cold.bytes if cold else 0,
            "compression_ratio": dg.MetadataValue.float(report.compression_ratio or 0.0),
            "tables": dg.MetadataValue.json(frame.select("table", "files", "bytes", "small_files").to_dicts()),
        }
    )


def definitions(days: dg.DailyPartitionsDefinition) -> dg.Definitions:
    """The archive's care."""
    return dg.Definitions(
        assets=[
            archive_open_day,
            closed_days_asset(days),
            archive_cold_days,
            archive_retention,
            ledger,
            archive_vacuum,
            storage_report,
        ]
    )
