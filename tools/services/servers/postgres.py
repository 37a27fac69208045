"""PostgreSQL, the Debian package.

Belongs here: its cluster, databases, start and health.
"""

import hashlib
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Final

from tools.services.processes import run
from tools.services.servers.base import HOST, Launch, NotReadyError, Place, new_secret, write_private
from tools.services.servers.debian import DebianServer

_USER: Final = "postgres"  # the server refuses to run as root; the package brings this user
_PROGRAMS: Final = Path("/usr/lib/postgresql")
_ANSWER_SECONDS: Final = 10
_BESIDE: Final = ("dagster", "mlflow")


class Postgres(DebianServer):
    """Credentials: username, password, database (the operational state's; Dagster and MLflow have their own)."""

    name = "postgres"
    version: ClassVar[str] = "debian"
    package: ClassVar[str] = "postgresql"
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT  # "fast": SIGTERM would wait for every client to leave

    def program(self) -> Path | None:
        """The newest version's programs (Debian keeps them out of PATH)."""
        found = sorted(_PROGRAMS.glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
        on_path = shutil.which("postgres")
        return found[-1].parent if found else Path(on_path).resolve().parent if on_path else None

    def new_credentials(self) -> dict[str, str]:
        """The superuser of the cluster and the name of the first database."""
        return {"username": "sieis", "password": new_secret(), "database": "sieis"}

    def prepare(self, place: Place) -> None:
        """Make the cluster once."""
        folder = _cluster(place)
        if (folder / "PG_VERSION").exists():
            return
        if folder.exists():  # an initdb that was killed
            shutil.rmtree(folder)
        folder.mkdir(parents=True, mode=0o700)
        secret = folder.with_name(f"{folder.name}.password")
        write_private(secret, place.credentials["password"])
        if user := _user():
            for path in (folder.parent, folder, secret):
                shutil.chown(path, user, user)
        try:
            command = [str(place.home / "initdb"), f"--pgdata={folder}", f"--username={place.credentials['username']}"]
            options = ["--auth=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8", "--locale=C.UTF-8"]
            run([*command, *options], place.folder / "initdb.log", user=_user(), cwd=folder)
        except BaseException:
            shutil.rmtree(folder)
            raise
        finally:
            secret.unlink()

    def launch(self, place: Place) -> Launch:
        """On TCP only: the default folder of sockets belongs to the system's own cluster."""
        settings = {"listen_addresses": HOST, "port": place.ports["main"], "unix_socket_directories": ""}
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        return Launch([str(place.home / "postgres"), "-D", str(_cluster(place)), *options], user=_user())

    def check(self, place: Place) -> None:
        """Log in and select."""
        if (answer := query(place, "select 1", database="postgres")) != "1":
            raise NotReadyError(f"`select 1` is answered by {answer}")

    def first_use(self, place: Place) -> None:
        """Make the databases once."""
        for name in (place.credentials["database"], *_BESIDE):
            if query(place, f"select count(*) from pg_database where datname = '{name}'", database="postgres") == "0":  # noqa: S608 - our own constants
                query(place, f"create database {name}", database="postgres")

    def settings(self, place: Place) -> dict[str, str]:
        """The addresses of the databases; Dagster's without a driver, for it knows its own only."""
        server = f"{place.credentials['username']}:{place.credentials['password']}@{place.address}"
        return {
            "SIEIS_STATE_URL": f"postgresql+psycopg://{server}/{place.credentials['database']}",
            "SIEIS_DAGSTER_DATABASE_URL": f"postgresql://{server}/dagster",
            "SIEIS_MLFLOW_DATABASE_URL": f"postgresql+psycopg://{server}/mlflow",
        }

    def remove(self, place: Place) -> None:
        """Remove the cluster, which as root lies in the server user's home."""
        shutil.rmtree(_cluster(place), ignore_errors=True)


def query(place: Place, sql: str, *, database: str | None = None) -> str:
    """What psql prints for one statement, bare.

    Raises: NotReadyError.
    """
    command = [str(place.home / "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql]
    environment: Mapping[str, str] = {
        **os.environ,  # passing the environment on is not reading configuration from it
        "PGHOST": HOST,
        "PGPORT": str(place.ports["main"]),
        "PGUSER": place.credentials["username"],
        "PGPASSWORD": place.credentials["password"],
        "PGDATABASE": database or place.credentials["database"],
        "PGCONNECT_TIMEOUT": "5",
    }
    try:
        answer = subprocess.run(  # noqa: S603 - our own statements
            command, env=environment, capture_output=True, text=True, check=False, timeout=_ANSWER_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise NotReadyError("psql got no answer") from error
    if answer.returncode != 0:
        raise NotReadyError(answer.stderr.strip())
    return answer.stdout.strip()


def _user() -> str | None:
    return _USER if os.geteuid() == 0 else None


def _cluster(place: Place) -> Path:
    """The data folder. As root it lies in the server user's home, since that user may not enter root's folders."""
    user = _user()
    if not user:
        return place.data
    name = hashlib.sha256(str(place.folder.resolve()).encode()).hexdigest()[:16]
    return Path(pwd.getpwnam(user).pw_dir) / "sieis" / name
