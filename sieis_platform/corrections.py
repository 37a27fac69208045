"""Readings corrected by a person: deleted, or some of their values taken away, with a reason and a way back.

Belongs here: the order of the writes, and what may be corrected when. Not here: commits of the archive (stores/rewrite,
stores/restore), the audit's table (state), the command (sieis_cli/correct.py).

Four steps, each of which does nothing where it has been done: (1) the audit says what is meant, (2) the rows are kept
as they are, (3) the archive is changed, with the correction's id in the commits, (4) the hot store follows the archive,
and the audit says it is done. Killed anywhere, the correction is completed under its id. The way back goes the same
steps; there the correction is in force until every row is as it was. What is derived follows the archive's log
(defs/rollups/late.py).
"""

import datetime as dt
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import polars as pl

from sieis_platform import crash
from sieis_platform.errors import FatalError
from sieis_platform.reading import FIELDS, MAX_MOTE_ID, READING_SCHEMA
from sieis_platform.state import Correction, CorrectionKind, State
from sieis_platform.stores.archive import Archive
from sieis_platform.stores.corrected import APPLIED, IMAGES, CorrectionImages, correction_app, mark_undone
from sieis_platform.stores.follow import follow
from sieis_platform.stores.hot import HotStore
from sieis_platform.stores.marts import Marts
from sieis_platform.stores.restore import put_back
from sieis_platform.stores.rewrite import POSITION, ROW_SCHEMA, Scope, replace_rows
from sieis_platform.timeline import DAY_NS

METADATA: Final = "sieis.correction"
#: Rows rewritten in one commit, about (80 bytes each, several copies: 200 MB).
_ROWS_AT_ONCE: Final = 500_000
_EPOCH: Final = dt.date(1970, 1, 1)


class CorrectionError(FatalError):
    """What is asked for makes no correction, or none that can be carried out now."""


class UnknownCorrectionError(CorrectionError):
    """There is no correction of that id."""


@dataclass(frozen=True)
class Asked:
    """What is to be corrected: readings of `motes` with start_ns <= timestamp < end_ns.

    `delete` takes the rows out; `null` takes away the values of `fields` and leaves the rows.
    """

    kind: CorrectionKind
    motes: Sequence[int]
    start_ns: int
    end_ns: int
    reason: str
    author: str
    fields: Sequence[str] = ()


class Corrections:
    """The corrections of one installation. May be used by several processes; each correction by one at a time."""

    def __init__(self, state: State, archive: Archive, marts: Marts, hot: HotStore) -> None:
        self._state = state
        self._archive = archive
        self._images = CorrectionImages(marts)
        self._hot = hot

    def count(self, asked: Asked) -> int:
        """How many archived rows (repeated keys included) it would concern. Raises: CorrectionError, as `apply`."""
        _check(asked)
        with self._archive.reading():
            return int(self._matching(asked).select(pl.len()).collect().item())

    def apply(self, asked: Asked) -> Correction:
        """Carry it out; where the same one was begun and not finished, that is completed under its id.

        Raises: CorrectionError (nothing was done), RetriableError and FatalError of the stores (then it is begun: the
        same call completes it).
        """
        _check(asked)
        known = self._state.corrections()
        for one in known:
            if one.status == "started" and _same(one, asked):
                return self.complete(one.id)
            if one.status in ("started", "undoing") and _overlap(one, asked):
                raise CorrectionError(
                    f"correction {one.id} concerns some of the same readings and is not finished: "
                    f"`sieis correct finish {one.id}` first"
                )
        if not self.count(asked):
            raise CorrectionError("the archive holds no such reading: check the motes and the time range (UTC)")
        correction = Correction(
            id=f"{dt.datetime.now(dt.UTC):%Y%m%d}-{uuid.uuid4().hex[:8]}",
            kind=asked.kind,
            motes=sorted(set(asked.motes)),
            fields=[field for field in FIELDS if field in asked.fields],
            start_ns=asked.start_ns,
            end_ns=asked.end_ns,
            reason=asked.reason.strip(),
            author=asked.author,
            created_at=dt.datetime.now(dt.UTC),
        )
        self._state.save_correction(correction)
        return self.complete(correction.id)

    def complete(self, correction_id: str) -> Correction:
        """Finish what was begun: the correction, or its undoing. Where nothing is open, the hot store follows again.

        That repairs a hot store into which a consumer that lagged behind wrote rows that had been deleted.
        Raises: UnknownCorrectionError, CorrectionError (images are missing), RetriableError and FatalError of the
        stores.
        """
        correction = self._find(correction_id)
        if correction.status == "started":
            return self._apply(correction)
        if correction.status == "undoing":
            return self._undo(correction)
        images = self._kept(correction)
        self._follow(images, delete=correction.status == "done" and correction.kind == "delete")
        return correction

    def undo(self, correction_id: str, author: str) -> Correction:
        """Put everything back as it was before the correction; twice is like once.

        Raises: UnknownCorrectionError; CorrectionError where a later one concerns the same readings (undo that one
        first), this one is not finished, or its images are missing; RetriableError and FatalError of the stores
        (`complete` goes on).
        """
        correction = self._find(correction_id)
        if correction.status == "undone":
            return correction
        if correction.status == "started":
            raise CorrectionError(f"correction {correction.id} is not finished: `sieis correct finish {correction.id}`")
        for one in self._state.corrections():
            later = one.created_at > correction.created_at and one.status != "undone"
            if later and _overlap(one, _asked(correction)):
                raise CorrectionError(
                    f"correction {one.id} came later and concerns some of the same readings: undo that one first"
                )
        self._kept(correction)
        undoing = msgspec.structs.replace(correction, status="undoing", undone_by=author)
        self._state.save_correction(undoing)
        return self._undo(undoing)

    def known(self) -> list[Correction]:
        """All of them, oldest first."""
        return self._state.corrections()

    def days(self, correction_id: str) -> list[dt.date]:
        """The days whose readings it concerns, ascending."""
        images = self._images.of(self._find(correction_id).id)
        return [_EPOCH + dt.timedelta(days=day) for day in images.select(_DAY).to_series().unique().sort()]

    # -- the steps ---------------------------------------------------------------------------------------------------
    def _apply(self, correction: Correction) -> Correction:
        with self._archive.reading():
            # After a kill between archive and audit there is nothing left that matches: the images kept then count.
            matching = self._matching(_asked(correction)).select(ROW_SCHEMA.names()).collect()
        images = self._images.keep(correction.id, matching)
        crash.point("correct.after_images")
        nulls = [pl.lit(None, READING_SCHEMA[field]).alias(field) for field in correction.fields]
        for scope, rows in _pieces(images, by_mote="mote_id" in self._archive.partition_columns):
            imaged = rows.select(POSITION)

            def change(held: pl.DataFrame, imaged: pl.DataFrame = imaged) -> pl.DataFrame:
                others = held.join(imaged, on=POSITION, how="anti", nulls_equal=True)
                if correction.kind == "delete":
                    return others
                return pl.concat(
                    [others, held.join(imaged, on=POSITION, how="semi", nulls_equal=True).with_columns(nulls)]
                )

            self._rewrite(correction, scope, change, "corrected", "apply")
            crash.point("correct.after_piece")
        crash.point("correct.after_archive")
        self._follow(images, delete=correction.kind == "delete")
        crash.point("correct.after_hot")
        done = msgspec.structs.replace(
            correction, status="done", rows=images.height, finished_at=dt.datetime.now(dt.UTC)
        )
        self._state.save_correction(done)
        return done

    def _undo(self, correction: Correction) -> Correction:
        images = self._kept(correction)
        for scope, rows in _pieces(images, by_mote="mote_id" in self._archive.partition_columns):
            if correction.kind == "delete":
                put_back(
                    self._archive,
                    scope,
                    rows,
                    reason="correction undone",
                    metadata=_metadata(correction, "undo"),
                    transactions={correction_app(correction.id): APPLIED},
                )
                crash.point("correct.after_piece")
                continue
            before = rows.select(*POSITION, *(pl.col(field).alias(f"_{field}") for field in correction.fields))

            def change(held: pl.DataFrame, before: pl.DataFrame = before) -> pl.DataFrame:
                joined = held.join(before.with_columns(_imaged=True), on=POSITION, how="left", nulls_equal=True)
                imaged = pl.col("_imaged").is_not_null()
                return joined.with_columns(
                    pl.when(imaged).then(f"_{field}").otherwise(field).alias(field) for field in correction.fields
                ).select(held.columns)

            self._rewrite(correction, scope, change, "correction undone", "undo")
            crash.point("correct.after_piece")
        mark_undone(self._archive, correction.id)
        crash.point("correct.after_archive")
        self._follow(images, delete=False)
        crash.point("correct.after_hot")
        undone = msgspec.structs.replace(correction, status="undone", undone_at=dt.datetime.now(dt.UTC))
        self._state.save_correction(undone)
        return undone

    def _rewrite(
        self,
        correction: Correction,
        scope: Scope,
        change: Callable[[pl.DataFrame], pl.DataFrame],
        reason: str,
        step: str,
    ) -> None:
        replace_rows(
            self._archive,
            scope,
            change,
            reason=reason,
            metadata=_metadata(correction, step),
            transactions={correction_app(correction.id): APPLIED},
        )

    def _follow(self, images: pl.DataFrame, *, delete: bool) -> None:
        def archived(start_ns: int, end_ns: int, mote: int) -> pl.DataFrame:
            with self._archive.reading():
                return self._archive.scan(start_ns, end_ns, [mote]).select(READING_SCHEMA.names()).collect()

        follow(self._hot, archived, images, delete=delete)

    def _kept(self, correction: Correction) -> pl.DataFrame:
        """The images of a correction that was carried out, all of them."""
        images = self._images.of(correction.id)
        if images.height != correction.rows:
            raise CorrectionError(
                f"correction {correction.id} concerned {correction.rows} rows, but the mart {IMAGES} holds "
                f"{images.height} of them as they were; nothing was changed: restore that mart from a backup first"
            )
        return images

    def _matching(self, asked: Asked) -> pl.LazyFrame:
        first, last = _date(asked.start_ns), _date(asked.end_ns - 1)
        inside = pl.col("timestamp").is_between(asked.start_ns, asked.end_ns, closed="left")
        rows = self._archive.scan_table(self._archive.table(), first, last)
        return rows.filter(Scope(last, first, sorted(set(asked.motes))).rows()).filter(inside)

    def _find(self, correction_id: str) -> Correction:
        found = self._state.correction(correction_id)
        if found is None:
            raise UnknownCorrectionError(f"there is no correction {correction_id[:60]!r}; see `sieis correct list`")
        return found


_DAY: Final = pl.col("timestamp").floordiv(DAY_NS).alias("_day")


def _pieces(images: pl.DataFrame, *, by_mote: bool) -> Iterator[tuple[Scope, pl.DataFrame]]:
    """The images by neighbouring days, as many in one piece as may be rewritten at once.

    Without folders of motes whole days are rewritten: one a piece.
    """
    by_day = images.with_columns(_DAY).partition_by("_day", as_dict=True, include_key=False, maintain_order=True)
    held: list[tuple[int, pl.DataFrame]] = []
    for (day,), rows in sorted(by_day.items()):
        size = sum(frame.height for _, frame in held)
        if held and (not by_mote or day != held[-1][0] + 1 or size + rows.height > _ROWS_AT_ONCE):
            yield _piece(held)
            held = []
        held.append((day, rows))
    if held:
        yield _piece(held)


def _piece(held: Sequence[tuple[int, pl.DataFrame]]) -> tuple[Scope, pl.DataFrame]:
    rows = pl.concat([frame for _, frame in held])
    first, last = (_EPOCH + dt.timedelta(days=held[end][0]) for end in (0, -1))
    return Scope(last, first, rows["mote_id"].unique().sort().to_list()), rows


def _metadata(correction: Correction, step: str) -> dict[str, str]:
    told = {"id": correction.id, "step": step, "kind": correction.kind, "reason": correction.reason}
    return {METADATA: msgspec.json.encode(told).decode()}


def _check(asked: Asked) -> None:
    wrong: list[str] = []
    if not asked.motes or not all(1 <= mote <= MAX_MOTE_ID for mote in asked.motes):
        wrong.append("name at least one mote, each 1 or more")
    if asked.start_ns >= asked.end_ns:
        wrong.append("the range ends before it begins")
    if not asked.reason.strip():
        wrong.append("give a reason: it is what the next person will read")
    if asked.kind == "null" and not asked.fields:
        wrong.append(f"name the values to take away ({', '.join(FIELDS)})")
    if asked.kind == "delete" and asked.fields:
        wrong.append("deleting takes whole readings: name no fields")
    if unknown := sorted(set(asked.fields) - set(FIELDS)):
        wrong.append(f"{', '.join(unknown)[:100]} is none of {', '.join(FIELDS)}")
    if wrong:
        raise CorrectionError("this is no correction: " + "; ".join(wrong))


def _same(one: Correction, asked: Asked) -> bool:
    return (one.kind, one.motes, set(one.fields), one.start_ns, one.end_ns) == (
        asked.kind,
        sorted(set(asked.motes)),
        set(asked.fields),
        asked.start_ns,
        asked.end_ns,
    )


def _overlap(one: Correction, asked: Asked) -> bool:
    return one.start_ns < asked.end_ns and asked.start_ns < one.end_ns and not set(one.motes).isdisjoint(asked.motes)


def _asked(one: Correction) -> Asked:
    return Asked(one.kind, one.motes, one.start_ns, one.end_ns, one.reason, one.author, one.fields)


def _date(ns: int) -> dt.date:
    return _EPOCH + dt.timedelta(days=ns // DAY_NS)
