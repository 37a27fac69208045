"""`sieis api`: the REST API of this installation.

Belongs here: the command. Not here: the app and its server (sieis_api).
"""

import signal
from typing import Annotated

import typer

from sieis_cli.context import load_settings


def register(app: typer.Typer) -> None:
    """Add `api` to `app`."""
    app.command("api")(api)


def api(
    host: Annotated[str | None, typer.Option(help="Address to listen on (SIEIS_API_HOST).", show_default=False)] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port to listen on (SIEIS_API_PORT).", show_default=False)
    ] = None,
) -> None:
    """Serve the REST API until SIGTERM or Ctrl-C; /docs explains it.

    Without SIEIS_API_KEY it answers this machine only. With it, clients send the key in X-API-Key, or
    sign in with it once (POST /api/v1/session).
    """
    # Asked to stop before the server is up: a clean end as well.
    signal.signal(signal.SIGTERM, _stop)
    settings = load_settings()
    given = {name: value for name, value in (("api_host", host), ("api_port", port)) if value is not None}

    from sieis_api.server import serve  # not above: keeps `sieis --help` fast

    serve(settings.model_copy(update=given))


def _stop(*_: object) -> None:
    raise typer.Exit
