"""InfluxDB 2.7, built from its Go module and the Rust part of Flux.

Belongs here: its install, start and first setup (organisation, bucket, operator token). Other buckets and the token
that SIEIS works with are made by `sieis setup`.
"""

import shutil
import subprocess
from typing import ClassVar, Final

import httpx

from tools.services.cache import Build
from tools.services.errors import StartError
from tools.services.servers.base import Launch, NotReadyError, Place, Server, new_secret
from tools.services.toolchain import CARGO, CLANG, GO, PROTOC, require

_PKG_CONFIG: Final = "github.com/influxdata/pkg-config@v0.2.7"
_PROGRAM: Final = "github.com/influxdata/influxdb/v2/cmd/influxd"
_GO_MOD: Final = """module sieis/influxd

go 1.21

require github.com/influxdata/influxdb/v2 v{version}

replace github.com/nats-io/nats-streaming-server v0.11.2 => \
github.com/influxdata/nats-streaming-server v0.11.3-0.20201112040610-c277f7560803
"""
# Flux's Rust part denies warnings, and a compiler newer than it has new ones.
_RUSTC_WRAPPER: Final = '#!/bin/sh\nexec "$@" --cap-lints=warn\n'
_TAGS: Final = "sqlite_foreign_keys,sqlite_json,noasm"
_ANSWER_SECONDS: Final = 5.0


#: Memory that Go may let grow before it looks for garbage, in percent: at 300 a record costs InfluxDB 8.3 µs of
#: processor time, at Go's own 100 it is 10.2 µs. docker-compose.yml says the same.
_GOGC: Final = "300"


class InfluxDB(Server):
    """Credentials: username, password, org, bucket, token (the operator's: may do everything)."""

    name = "influxdb"
    version: ClassVar[str] = "2.7.12"

    def build(self, build: Build) -> None:
        """Compile influxd; about 5 minutes on two cores."""
        require([GO, CARGO, CLANG, PROTOC], build.apt)
        source = build.directory / "source"
        source.mkdir()
        (source / "go.mod").write_text(_GO_MOD.format(version=self.version))
        (source / "program.go").write_text(f'package main\n\nimport _ "{_PROGRAM}"\n')
        wrapper = source / "rustc-wrapper"
        wrapper.write_text(_RUSTC_WRAPPER)
        wrapper.chmod(0o755)
        build.run(["go", "mod", "tidy"], cwd=source)
        build.run(["go", "install", _PKG_CONFIG], env={"GOBIN": str(source)}, cwd=source)
        env = {"PKG_CONFIG": str(source / "pkg-config"), "RUSTC_WRAPPER": str(wrapper), **_rust_toolchain(build)}
        build.run(
            ["go", "build", "-tags", _TAGS, "-o", str(build.directory / "influxd"), _PROGRAM], env=env, cwd=source
        )
        shutil.rmtree(source)

    def new_credentials(self) -> dict[str, str]:
        """An operator."""
        return {
            "username": "sieis",
            "password": new_secret(),
            "org": "sieis",
            "bucket": "first",  # a setup wants one; SIEIS's own are made by `sieis setup`, with their retention
            "token": new_secret(),
        }

    def prepare(self, place: Place) -> None:
        """Nothing: the server makes its own folders."""
        place.data.mkdir(exist_ok=True)

    def launch(self, place: Place) -> Launch:
        """Every path inside the instance's folder."""
        paths = {"bolt-path": "influxd.bolt", "engine-path": "engine", "sqlite-path": "influxd.sqlite"}
        options = [f"--{option}={place.data / path}" for option, path in paths.items()]
        listen = [f"--http-bind-address={place.address}", "--reporting-disabled", "--log-level=warn"]
        return Launch([str(place.home / "influxd"), "run", *options, *listen], {"GOGC": _GOGC})

    def check(self, place: Place) -> None:
        """Ask for its health."""
        try:
            answer = httpx.get(f"{self.address(place)}/health", timeout=_ANSWER_SECONDS)
        except httpx.HTTPError as error:
            raise NotReadyError(str(error)) from error
        if answer.status_code != 200:
            raise NotReadyError(f"/health answers {answer.status_code}")

    def first_use(self, place: Place) -> None:
        """Set it up once. Raises: StartError."""
        url = f"{self.address(place)}/api/v2/setup"
        if httpx.get(url, timeout=_ANSWER_SECONDS).json()["allowed"]:
            answer = httpx.post(url, json=dict(place.credentials), timeout=_ANSWER_SECONDS)
            if answer.status_code != 201:
                raise StartError(f"influxdb refused its setup: {answer.status_code} {answer.text}")

    def address(self, place: Place) -> str:
        """Its URL."""
        return f"http://{place.address}"

    def settings(self, place: Place) -> dict[str, str]:
        """Address, organisation, the operator's token; `sieis setup` makes with it the one that SIEIS works with."""
        return {
            "SIEIS_INFLUX_URL": self.address(place),
            "SIEIS_INFLUX_ORG": place.credentials["org"],
            "SIEIS_INFLUX_ADMIN_TOKEN": place.credentials["token"],
        }


def _rust_toolchain(build: Build) -> dict[str, str]:
    """The toolchain that is there, where rustup would look for the one that Flux pins."""
    try:
        answer = subprocess.run(
            ["rustup", "show", "active-toolchain"],  # noqa: S607 - wherever rustup is
            cwd=build.directory,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:  # a cargo without rustup obeys no pin
        return {}
    return {"RUSTUP_TOOLCHAIN": answer.stdout.split()[0]} if answer.stdout else {}
