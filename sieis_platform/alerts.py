"""Alerts: kept in the operational state first, then delivered through Apprise until every service has them.

Belongs here: cooldown, delivery, what an alert that cannot be delivered becomes. Not here: who raises one.
"""

import logging
from typing import Final, NamedTuple

from pydantic import SecretStr

from sieis_platform.errors import FatalError, RetriableError
from sieis_platform.settings import Settings
from sieis_platform.state import NewAlert, State, StoredAlert

# Failed deliveries are tried again after 30 s, a minute, two …: a mail server is back within minutes or hours.
_FIRST_RETRY_SECONDS: Final = 30.0
_LONGEST_RETRY_SECONDS: Final = 3_600.0
_ERROR_CHARACTERS: Final = 500


class AlertSettingsError(FatalError):
    """SIEIS_ALERT_URLS holds an address that Apprise does not understand."""


class AlertDeliveryError(RetriableError):
    """At least one service did not take an alert; it stays kept and is tried again."""


class Delivery(NamedTuple):
    """What one round did: alerts that every service has now, and the reasons why others are not delivered."""

    delivered: int
    failures: list[str]


class Alerts:
    """Alerts of one installation. `state` stays the caller's to close."""

    def __init__(self, state: State, urls: SecretStr | None, cooldown_seconds: float) -> None:
        self._state = state
        self._urls = urls.get_secret_value().strip() if urls is not None else ""
        self._cooldown_seconds = cooldown_seconds

    @classmethod
    def of(cls, settings: Settings, state: State) -> "Alerts":
        """The alerts of the installation that `settings` describes."""
        return cls(state, settings.alert_urls, settings.alert_cooldown_seconds)

    @property
    def deliverable(self) -> bool:
        """Whether there is anywhere to send alerts to."""
        return bool(self._urls)

    def raise_alert(self, alert: NewAlert) -> bool:
        """Keep `alert` for delivery; False where the cooldown of its subject holds it back.

        Returns once it is kept: a process that dies then loses no alert. Without addresses it is kept, but not waiting:
        addresses given later do not bring a flood of old alerts. Raises: StateUnavailableError, StateError.
        """
        return self._state.keep_alert(alert, self._cooldown_seconds, waiting=self.deliverable)

    def deliver(self) -> Delivery:
        """Send every alert that is due to the services that do not have it yet, and keep what came of it.

        Raises: AlertSettingsError, StateUnavailableError, StateError.
        """
        due = self._state.due_alerts()
        if not (due and self.deliverable):
            return Delivery(0, [])
        services = _services(self._urls)
        delivered, failures = 0, []
        for stored in due:
            reached, errors = _send(stored, services)
            reason = "; ".join(dict.fromkeys(errors))[:_ERROR_CHARACTERS]
            wait = min(_FIRST_RETRY_SECONDS * 2.0 ** min(stored.attempts, 10), _LONGEST_RETRY_SECONDS)
            self._state.save_attempt(stored.id, delivered_to=reached, error=reason, retry_seconds=wait)
            if reason:
                failures.append(f"{stored.alert.title}: {reason}")
            else:
                delivered += 1
        return Delivery(delivered, failures)


def _services(urls: str) -> list:
    import apprise  # noqa: PLC0415 - it takes its time, and only what delivers needs it

    # Apprise writes an address it cannot read into its log, with whatever password is in it.
    logging.getLogger("apprise").setLevel(logging.CRITICAL)
    known = apprise.Apprise()
    if not known.add(urls):
        raise AlertSettingsError(
            "SIEIS_ALERT_URLS holds an address that is none of Apprise's (SERVICE://…, separated by commas); correct it"
        )
    return list(known)


def _send(stored: StoredAlert, services: list) -> tuple[frozenset[str], list[str]]:
    """Who has the alert after this attempt, and why others have not; addresses stay out of it, they hold passwords."""
    import apprise  # noqa: PLC0415 - as above

    alert = stored.alert
    text = f"{alert.text}\n\nraised {stored.raised_at:%Y-%m-%d %H:%M:%S} UTC"
    if stored.repeats:
        text += f"; {stored.repeats} more of the kind since"
    reached, errors = set(stored.delivered_to), []
    for service in services:
        name = service.url_id()
        if name in reached:
            continue
        one = apprise.Apprise()
        one.add(service)
        result = one.notify(body=text, title=alert.title, notify_type=apprise.NotifyType(alert.level))
        if result:
            reached.add(name)
        else:
            said = " ".join(entry.message for entry in result.logs())
            errors.append(f"{service.service_name}: {said or 'the notification was not taken'}")
    return frozenset(reached), errors
