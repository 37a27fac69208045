"""The first day that is derived, kept with the data: days that begin a month back would begin on another one each day.

Belongs here: the file. Not here: which days there are (defs/partitions.py), who finds an earlier one (rollups/late.py).
"""

import datetime as dt
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec

from sieis_platform.errors import FatalError
from sieis_platform.settings import Settings


class FirstDayError(FatalError):
    """The file of the first day cannot be read."""


class _Kept(msgspec.Struct, frozen=True):
    first_day: dt.date


@dataclass(frozen=True)
class FirstDayFile:
    """The file that keeps the first day; a later day never replaces an earlier one."""

    path: Path

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """That of a data directory."""
        return cls(settings.data_dir / "partitions.json")

    def read(self) -> dt.date | None:
        """The first day, or None while none is kept. Raises: FirstDayError where the file is none."""
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=_Kept).first_day
        except FileNotFoundError:
            return None
        except (msgspec.MsgspecError, UnicodeDecodeError, IsADirectoryError) as error:
            raise FirstDayError(
                f'{self.path} does not hold a first day ({error}); restore it from a backup, write {{"first_day": '
                '"YYYY-MM-DD"} into it, or delete it: the next look at the archive writes it anew'
            ) from error

    def lower(self, day: dt.date) -> None:
        """Keep `day` where no day, or a later one, is kept. Raises: FirstDayError."""
        kept = self.read()
        if kept is not None and kept <= day:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp")
        try:
            draft.write_bytes(msgspec.json.encode(_Kept(day)))
            draft.replace(self.path)
        finally:
            draft.unlink(missing_ok=True)
