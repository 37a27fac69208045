"""Installs of tools.services: whole or not there, made once, given up cleanly; what is missing is named."""

import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tools.services import ports, toolchain
from tools.services.cache import Build, Cache
from tools.services.errors import (
    InstallCancelledError,
    InstallError,
    MissingToolError,
    PortTakenError,
    UnknownServerError,
)
from tools.services.install import install
from tools.services.servers import SERVERS, select
from tools.services.servers.base import Launch, Place, Server
from tools.services.servers.redis import Redis
from tools.services.toolchain import Tool

ROOT = Path(__file__).parents[3]

SLEEPER = """
import pathlib, sys
from tools.services.cache import Cache

def recipe(build):
    (build.directory / "half").write_text("made")
    build.run([sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)"])

Cache(pathlib.Path(sys.argv[1])).install("thing-1", recipe, print)
"""


def silent(_text: str) -> None:
    pass


def recipe(build: Build) -> None:
    (build.directory / "program").write_text("whole")


def test_an_install_is_made_once_and_remembers_its_size(tmp_path):
    cache = Cache(tmp_path)
    first = cache.install("thing-1", recipe, silent)
    second = cache.install("thing-1", lambda _: pytest.fail("made again"), silent)
    assert first.fresh
    assert not second.fresh
    assert (second.home / "program").read_text() == "whole"
    assert second.size_bytes == len("whole")


def test_several_at_once_make_it_once(tmp_path):
    made = []

    def slow(build: Build) -> None:
        made.append(build)
        build.run(["sleep", "0.3"])
        recipe(build)

    with ThreadPoolExecutor(4) as pool:
        homes = {pool.submit(Cache(tmp_path).install, "thing-1", slow, silent).result().home for _ in range(4)}
    assert len(made) == 1
    assert homes == {tmp_path / "thing-1"}


def test_one_that_waits_is_told_so_and_takes_what_the_other_made(tmp_path):
    said, inside, go = [], threading.Event(), threading.Event()

    def held(build: Build) -> None:
        inside.set()
        assert go.wait(30)
        recipe(build)

    def hear(text: str) -> None:
        said.append(text)
        go.set()

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(Cache(tmp_path).install, "thing-1", held, silent)
        assert inside.wait(30)
        second = pool.submit(Cache(tmp_path).install, "thing-1", recipe, hear)
        assert not second.result(30).fresh
        assert first.result(30).fresh
    assert said == ["waiting for another install of the same ..."]


def test_a_killed_install_leaves_nothing_half_made_and_nothing_running(tmp_path):
    killed = subprocess.Popen([sys.executable, "-c", SLEEPER, str(tmp_path)], cwd=ROOT, stdout=subprocess.DEVNULL)
    log = tmp_path / "logs" / "thing-1.log"
    deadline = time.monotonic() + 60
    while not (numbers := log.read_text().splitlines()[-1:] if log.exists() else []) or not numbers[0].isdigit():
        assert time.monotonic() < deadline
        assert killed.poll() is None
    command = psutil.Process(int(numbers[0]))
    killed.kill()
    killed.wait()

    _, alive = psutil.wait_procs([command], timeout=30)
    assert not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]
    cache = Cache(tmp_path)
    assert cache.installed("thing-1") is None
    assert not (tmp_path / "thing-1").exists()
    home = cache.install("thing-1", recipe, silent).home
    assert sorted(path.name for path in home.iterdir()) == ["installed.json", "program"]


def test_a_command_that_fails_shows_its_last_lines_and_leaves_no_install(tmp_path):
    cache = Cache(tmp_path)
    with pytest.raises(InstallError, match=r"failed with code 3(.|\n)*no such module"):
        cache.install("thing-1", lambda build: build.run(["sh", "-c", "echo no such module; exit 3"]), silent)
    assert cache.installed("thing-1") is None
    assert cache.install("thing-1", recipe, silent).fresh


def test_folders_that_may_not_be_written_are_swept_too(tmp_path):
    cache = Cache(tmp_path)

    def guarded(build: Build) -> None:
        inner = build.directory / "module"
        inner.mkdir()
        (inner / "file").touch()
        inner.chmod(0o555)
        raise InstallError("given up")

    with pytest.raises(InstallError, match="given up"):
        cache.install("thing-1", guarded, silent)
    assert not (cache.install("thing-1", recipe, silent).home / "module").exists()


class Thing(Server):
    """A server whose install is a command."""

    version = "1"

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name  # pyright: ignore[reportAttributeAccessIssue]
        self.command = command

    def build(self, build: Build) -> None:
        build.run(self.command)

    def prepare(self, place: Place) -> None: ...

    def launch(self, place: Place) -> Launch:
        return Launch(self.command)

    def check(self, place: Place) -> None: ...

    def settings(self, place: Place) -> dict[str, str]:
        return {}


def test_one_install_that_fails_ends_the_others(tmp_path):
    begun = time.monotonic()
    with pytest.raises(InstallError, match="failed with code 1"):
        install([Thing("long", ["sleep", "600"]), Thing("broken", ["false"])], Cache(tmp_path))
    assert time.monotonic() - begun < 60  # not the ten minutes of the long one
    cancelled = Cache(tmp_path)
    cancelled.cancelled.set()
    with pytest.raises(InstallCancelledError):
        cancelled.install("other-1", lambda build: build.run(["sleep", "600"]), silent)


def test_every_missing_program_is_named_with_how_to_get_it():
    tools = [Tool("no-such-go", "from its site"), Tool("python3", "a newer one", least=(99, 0))]
    with pytest.raises(MissingToolError) as raised:
        toolchain.require([*tools, Tool("sh", "")], lambda _: None)
    assert str(raised.value).splitlines()[1:] == [
        "  no-such-go: from its site",
        "  python3 99.0 or newer: a newer one",
    ]


def test_a_debian_package_is_installed_as_root_only(monkeypatch):
    ran = []
    tool = Tool("no-such-clang", "or your system's", "clang")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(MissingToolError, match="Debian package clang; or your system's"):
        toolchain.require([tool], ran.append)
    assert ran == []


def test_a_server_of_a_missing_debian_package_names_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingToolError, match="Debian package redis-server"):
        Redis().install(Cache(tmp_path), silent)
    assert Redis().installed(Cache(tmp_path)) is None


def test_servers_are_selected_by_name_each_once():
    assert [server.name for server in select(["kafka", "influxdb", "kafka"])] == ["influxdb", "kafka"]
    with pytest.raises(UnknownServerError, match="no such server: kafka2; there are influxdb, "):
        select(["kafka2"])
    assert {name: server.name for name, server in SERVERS.items()} == {name: name for name in SERVERS}


def test_ports_are_free_distinct_and_below_those_of_outgoing_connections():
    chosen = ports.choose([str(number) for number in range(50)])
    assert len(set(chosen.values())) == 50
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(chosen.values()) < lowest
    with socket.create_server(("127.0.0.1", chosen["0"])):
        assert not ports.is_free(chosen["0"])
        with pytest.raises(PortTakenError, match=rf"{chosen['0']} \(main\)"):
            ports.require_free({"main": chosen["0"], "other": chosen["1"]})
    ports.require_free({"main": chosen["0"]})
