"""A site of pages in a folder, replaced as a whole: readers see the old one or the new one, whoever is killed when.

Belongs here: the versions of a site, the swap, reading a page by its name. Not here: what the pages hold, who may see
them.

    folder/current            a link to the version that is shown
    folder/20261125T101500-…  that version, and the one before it: someone may be reading
    folder/lock               held by whoever publishes; the system gives it back however the process ends
"""

import datetime as dt
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

INDEX: Final = "index.html"
_CURRENT: Final = "current"
_LOCK: Final = "lock"


def publish(folder: Path, write: Callable[[Path], None]) -> Path:
    """Let `write` make the site in a new folder, show that one, and remove what earlier ones left; the shown path.

    One process publishes at a time, others wait for it. Twice is two versions, the later of which is shown.
    Raises: OSError, and what `write` raises; the site that was there is then still shown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        current = folder / _CURRENT
        before = current.readlink().name if current.is_symlink() else None
        draft = folder / f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
        draft.mkdir()
        write(draft)
        link = folder / f"{draft.name}.link"
        link.symlink_to(draft.name)
        os.replace(link, current)  # noqa: PTH105 - Path.replace would do the same and not say that it is atomic
        _sweep(folder, {_CURRENT, _LOCK, draft.name, before})
        return current


def _sweep(folder: Path, kept: set[str | None]) -> None:
    """Remove everything else: older versions, and drafts whose process was killed (nobody else publishes now)."""
    for entry in folder.iterdir():
        if entry.name in kept:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def page(folder: Path, name: str) -> bytes | None:
    """Content of a page of the shown site by its name (`expectations/archive_days.html`); None where it has none.

    The name is looked up among those of the files there are; it never becomes part of a path.
    """
    current = folder / _CURRENT
    while current.is_symlink():  # else nothing was published yet
        version = current.readlink().name
        found = _read(folder / version, name)
        # A version that was removed meanwhile has a successor: the page is looked up there.
        if found is not None or current.readlink().name == version:
            return found
    return None


def _read(site: Path, name: str) -> bytes | None:
    try:
        files = {path.relative_to(site).as_posix(): path for path in site.rglob("*") if path.is_file()}
        return files[name].read_bytes() if name in files else None
    except FileNotFoundError:
        return None
