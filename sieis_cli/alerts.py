"""`sieis alerts`: what was alerted, and whether alerts arrive.

Belongs here: the commands. Not here: cooldown and delivery (sieis_platform.alerts).
"""

import datetime as dt
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sieis_cli.context import load_settings


def register(app: typer.Typer) -> None:
    """Add the group `alerts` to `app`."""
    group = typer.Typer(no_args_is_help=True, help="Alerts: what was raised, what became of it, and a trial.")
    group.command("list")(list_alerts)
    group.command("test")(trial)
    app.add_typer(group, name="alerts")


def list_alerts(
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 20,
) -> None:
    """List the newest alerts: when, how grave, what about, how often more, and whether everyone has them."""
    from sieis_platform.state import State

    with State.open(load_settings()) as state:
        counts, alerts = state.alert_counts(), state.recent_alerts(limit)
    table = Table(title=f"{counts.kept} alert(s), {counts.waiting} waiting, {counts.failures} failed deliveries")
    for column in ("raised", "level", "title", "more", "status"):
        table.add_column(column, overflow="fold")
    for one in alerts:
        status = f"waiting: {one.last_error}" if one.waiting else "delivered" if one.delivered_to else "kept"
        table.add_row(
            f"{one.raised_at:%Y-%m-%d %H:%M:%S}",
            one.alert.level,
            escape(one.alert.title),
            str(one.repeats),
            escape(status),
        )
    Console().print(table)


def trial() -> None:
    """Send an alert to every address of SIEIS_ALERT_URLS now, and all that wait; fails where one is not taken."""
    from sieis_platform.alerts import AlertDeliveryError, Alerts, AlertSettingsError
    from sieis_platform.state import NewAlert, State

    settings = load_settings()
    with State.open(settings) as state:
        alerts = Alerts.of(settings, state)
        if not alerts.deliverable:
            raise AlertSettingsError("SIEIS_ALERT_URLS is not set: alerts are only kept; give it addresses of Apprise")
        now = dt.datetime.now(dt.UTC)
        alerts.raise_alert(NewAlert(f"trial/{now:%Y%m%dT%H%M%S%f}", "A trial", "Alerts of SIEIS arrive.", "warning"))
        outcome = alerts.deliver()
    if outcome.failures:
        raise AlertDeliveryError(f"not delivered, and kept for the next attempt: {'; '.join(outcome.failures)}")
    Console().print(f"{outcome.delivered} alert(s) delivered")
