"""`sieis setup`: what SIEIS needs on its servers, made where missing: topics, buckets, InfluxDB; and a first .env.

Belongs here: the order and what is printed. Not here: how a topic, a bucket or a token is made.
"""

import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console

from sieis_cli.context import load_settings, read_settings
from sieis_platform.errors import FatalError

if TYPE_CHECKING:
    from sieis_platform.settings import Settings

_ENV_FILE: Final = Path(".env")
_INFLUX_TOKEN: Final = "SIEIS_INFLUX_TOKEN"  # noqa: S105 - the name of a variable

#: The names of one secret -> bytes of randomness. Those with SIEIS_ are read by SIEIS on this machine, the others by
#: docker-compose.yml. What another program must know beforehand (Kafka's password) cannot be made up here.
GENERATED: Final = {
    ("SIEIS_API_KEY",): 32,
    ("S3_SECRET_ACCESS_KEY", "SIEIS_S3_SECRET_ACCESS_KEY"): 20,  # MinIO takes 8 to 40 characters
    ("INFLUX_ADMIN_TOKEN", "SIEIS_INFLUX_ADMIN_TOKEN"): 32,
    ("POSTGRES_PASSWORD",): 24,
    ("REDIS_PASSWORD",): 24,
}
_S3_USER: Final = "SIEIS_S3_ACCESS_KEY_ID=sieis"


class EnvFileError(FatalError):
    """The .env file is there already, or cannot be written."""


def register(app: typer.Typer) -> None:
    """Add `setup` to `app`."""
    app.command("setup")(setup)


def setup(
    *,
    write_env: Annotated[
        bool,
        typer.Option("--write-env", help="Only write .env with strong new secrets (never over one that is there)."),
    ] = False,
    grow_partitions: Annotated[
        bool, typer.Option("--grow-partitions", help="Give an existing topic the partitions it lacks; this moves keys.")
    ] = False,
    shorten_retention: Annotated[
        bool,
        typer.Option("--shorten-retention", help="Let InfluxDB delete what is older than the settings keep by now."),
    ] = False,
) -> None:
    """Make what SIEIS needs on the servers of the settings: topics, buckets, InfluxDB's buckets and token.

    What is there already stays as it is, and is reported where it differs from the settings; only a retention of
    InfluxDB is lengthened. Twice is like once. On the embedded setting there is nothing to do.
    """
    console = Console(highlight=False, soft_wrap=True)
    if write_env:
        write_env_file(_ENV_FILE)
        console.print(f"wrote {_ENV_FILE} (readable by you only) with {len(GENERATED)} new secrets")
        return
    settings = load_settings()
    _topics(settings, console, grow=grow_partitions)
    _buckets(settings, console)
    _influx(settings, console, shorten=shorten_retention)


def write_env_file(path: Path) -> None:
    """Write `path`, readable by its owner only, with a new secret for each of GENERATED.

    Raises: EnvFileError where it exists, be it a broken link.
    """
    lines = ["# Secrets made by `sieis setup --write-env`. Keep them; every other setting is in .env.example."]
    lines.append(_S3_USER)
    for names, size in GENERATED.items():
        secret = secrets.token_hex(size)
        lines += [f"{name}={secret}" for name in names]
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise EnvFileError(f"{path} is there already; it is not overwritten. Move it away to make a new one") from None
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def _topics(settings: "Settings", console: Console, *, grow: bool) -> None:
    if settings.embedded_broker:
        console.print("topics: the embedded broker makes them itself")
        return
    from sieis_streaming.probe import probe
    from sieis_streaming.refusal import BrokerForbidsError
    from sieis_streaming.topics import ensure_topics

    try:
        probe(settings)
        console.print("broker: can do all that is relied on")
    except BrokerForbidsError as error:
        console.print(f"broker: [yellow]not tried out[/]: {error}")
    for topic in ensure_topics(settings, grow=grow):
        grown = f"grown from {topic.grown_from}" if topic.grown_from else "there already"
        console.print(f"topic {topic.name}: {'made' if topic.made else grown}, {topic.partitions} partitions")
        for difference in topic.differences:
            console.print(f"  [yellow]differs[/]: {difference}")


def _buckets(settings: "Settings", console: Console) -> None:
    from sieis_platform.stores.s3 import bucket_of, is_s3, make_bucket

    places = (settings.archive_location, settings.archive_cold_uri, settings.marts_location)
    uris = [uri for uri in places if is_s3(uri)]
    if not uris:
        console.print("buckets: archive and marts are folders, made when first written")
    for name in dict.fromkeys(bucket_of(uri) for uri in uris):
        console.print(f"bucket {name}: {'made' if make_bucket(settings, name).made else 'there already'}")


def _influx(settings: "Settings", console: Console, *, shorten: bool) -> None:
    """InfluxDB's organisation, buckets and token; the token goes into .env, never onto the screen."""
    if not settings.influx_url:
        console.print("hot store: SQLite makes itself when first written")
        return
    from sieis_platform.stores.influx.setup import prepare

    token, differences = prepare(settings, shorten_retention=shorten)
    console.print("InfluxDB: buckets and token are there")
    for difference in differences:
        console.print(f"  [yellow]differs[/]: {difference}")
    current = settings.influx_token
    if current is not None and current.get_secret_value() == token:
        return
    keep_token(_ENV_FILE, token)
    console.print(f"{_INFLUX_TOKEN} is now in {_ENV_FILE}")
    found = read_settings().influx_token
    if found is None or found.get_secret_value() != token:
        console.print(
            f"  [yellow]but[/]: the environment has another {_INFLUX_TOKEN}, which wins over {_ENV_FILE}; `unset "
            f"{_INFLUX_TOKEN}` where you start SIEIS"
        )


def keep_token(path: Path, token: str) -> None:
    """Put the token InfluxDB made into `path`, in place of the one that is there; the file stays its owner's only."""
    keep_lines(path, {_INFLUX_TOKEN: token})


def keep_lines(path: Path, values: Mapping[str, str]) -> None:
    """Put NAME=value lines into `path`, in place of those of the same names; other lines stay, in one step.

    The file is readable by its owner only, before and afterwards.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    names = "|".join(re.escape(name) for name in values)
    kept = re.sub(rf"(?m)^(?:{names})=.*\n?", "", text) if values else text
    if kept and not kept.endswith("\n"):
        kept += "\n"
    kept += "".join(f"{name}={value}\n" for name, value in values.items())
    draft = path.with_name(f"{path.name}.new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(kept)
    draft.replace(path)
