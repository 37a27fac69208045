"""What the retention has taken out of the archive, as the table says itself: the rest of such a day is not the day.

Belongs here: that record and its commit. Not here: what is let go (upkeep.expire), what is derived of the rest (defs).
"""

import datetime as dt
from collections.abc import Mapping
from typing import Final

import msgspec
import polars as pl
from deltalake.exceptions import CommitFailedError

from sieis_platform.stores.archive import Archive
from sieis_platform.stores.archive_errors import ArchiveError
from sieis_platform.stores.delta import KEEP_LOG

#: Property of the live table. Kept with the rows and not taken from the settings: a longer retention brings none back.
_KEY: Final = "sieis.letGo"
#: Sorts before every date.
_NEVER: Final = ""


class LetGo(msgspec.Struct, frozen=True):
    """The last day (UTC) that was let go: `until` of all motes but those that `motes` names; None: no day was."""

    until: dt.date | None = None
    motes: dict[int, dt.date | None] = {}

    @classmethod
    def of(cls, properties: Mapping[str, str]) -> "LetGo":
        """By the properties of the live table, at the version they are of. Raises: ArchiveError."""
        text = properties.get(_KEY)
        return cls.decoded(text) if text else cls()

    @classmethod
    def decoded(cls, text: str) -> "LetGo":
        """The reverse of `text`. Raises: ArchiveError."""
        try:
            return msgspec.json.decode(text, type=cls)
        except msgspec.MsgspecError as error:
            raise ArchiveError(
                f"the archive does not say what it has let go ({error}); what else writes to it?"
            ) from error

    def text(self) -> str:
        """As JSON."""
        return msgspec.json.encode(self).decode()

    def of_mote(self, mote: int) -> dt.date | None:
        """The last day of one mote that was let go."""
        return self.motes.get(mote, self.until)

    def and_also(self, other: "LetGo") -> "LetGo":
        """Both together: what was let go once stays so."""
        motes = sorted({*self.motes, *other.motes})
        return LetGo(
            _later(self.until, other.until), {mote: _later(self.of_mote(mote), other.of_mote(mote)) for mote in motes}
        )

    @property
    def wholly_until(self) -> dt.date | None:
        """The last day of which every mote's readings were let go; None where there is none."""
        lasts = [self.until, *self.motes.values()]
        known = [last for last in lasts if last is not None]
        return min(known) if len(known) == len(lasts) else None

    def reaches(self, day: dt.date) -> bool:
        """Whether anything of that day, or of a later one, was let go."""
        return any(last is not None and last >= day for last in (self.until, *self.motes.values()))

    def rows(self, date: pl.Expr) -> pl.Expr:
        """Which rows are of a mote (`mote_id`, not 0) on a day (`date`, text YYYY-MM-DD) that was let go of it."""
        until = pl.lit(_text(self.until))
        last = (
            pl.col("mote_id").replace_strict(
                list(self.motes), [_text(one) for one in self.motes.values()], default=until, return_dtype=pl.String
            )
            if self.motes
            else until
        )
        return (pl.col("mote_id") > 0) & (date <= last)


def record(archive: Archive, more: LetGo) -> None:
    """Say in the table that `more` is let go, before it is: a run in between derives nothing of it.

    Twice is like once. Raises: ArchiveUnavailableError, ArchiveError.
    """
    for table in archive.attempts():
        held = LetGo.of(table.metadata().configuration)
        wanted = held.and_also(more)
        if wanted == held:
            return
        try:
            with archive.reading():
                table.alter.set_table_properties(
                    {_KEY: wanted.text()}, raise_if_not_exists=False, post_commithook_properties=KEEP_LOG
                )
        except CommitFailedError:
            continue  # another writer committed meanwhile
        return
    raise archive.refused()


def _later(one: dt.date | None, other: dt.date | None) -> dt.date | None:
    return max((day for day in (one, other) if day is not None), default=None)


def _text(day: dt.date | None) -> str:
    return _NEVER if day is None else day.isoformat()
