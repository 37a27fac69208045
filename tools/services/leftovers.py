"""Temporary folders of tests that were killed: each says whose it is, and the next start removes those of the dead.

Belongs here: that claim and the sweep. Not here: what a server keeps outside its folder (Server.remove).
"""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import psutil

from tools.services import processes
from tools.services.servers import SERVERS
from tools.services.servers.base import Place

PREFIX: Final = "sieis-services-"
_CLAIM: Final = "owner.json"


def claim(folder: Path, ports: Mapping[str, Mapping[str, int]]) -> None:
    """Note in a temporary folder that this process owns it, and the ports of the servers in it."""
    me = psutil.Process()
    note = {"pid": me.pid, "created": me.create_time(), "ports": {name: dict(own) for name, own in ports.items()}}
    new = folder / f"{_CLAIM}.new"
    new.write_text(json.dumps(note))
    new.replace(folder / _CLAIM)


def sweep() -> None:
    """Remove the claimed folders of processes that are gone, and what their servers kept elsewhere."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        # Another user's, or one that another start is sweeping just now.
        with contextlib.suppress(FileNotFoundError, PermissionError):
            note = json.loads((folder / _CLAIM).read_bytes())
            if processes.find(note["pid"], note["created"]):
                continue
            for name in note["ports"].keys() & SERVERS.keys():
                SERVERS[name].remove(Place(Path(), folder / name, note["ports"][name], {}))
            shutil.rmtree(folder)
