"""Which readings file a data directory was filled from, so that the simulator replays the same building.

Belongs here: remembering that choice. Not here: reading the file, or what happens where none was chosen.
"""

import tempfile
from pathlib import Path

import msgspec

from sieis_platform.settings import Settings


class _Chosen(msgspec.Struct):
    path: str
    fingerprint: str


def remember(settings: Settings, path: Path, fingerprint: str) -> None:
    """Note that the history of this data directory came from `path`; the file loaded last is the one."""
    target = _file(settings)
    target.parent.mkdir(parents=True, exist_ok=True)
    text = msgspec.json.encode(_Chosen(str(path.absolute()), fingerprint))
    # A name of its own: loads and backfills may end at the same moment.
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=target.name, suffix=".tmp", delete=False) as draft:
        draft.write(text)
    Path(draft.name).replace(target)


def recall(settings: Settings) -> Path | None:
    """The file that was loaded last, None where there was none or it is gone."""
    try:
        chosen = msgspec.json.decode(_file(settings).read_bytes(), type=_Chosen)
    except (FileNotFoundError, msgspec.MsgspecError):  # a foreign file there is replaced by the next load
        return None
    path = Path(chosen.path)
    return path if path.is_file() else None


def _file(settings: Settings) -> Path:
    return settings.data_dir / "loaded.json"
