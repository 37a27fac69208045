"""What assets reach the world through: one typed resource that opens the stores of this installation.

Belongs here: the bridge from Dagster's configuration to Settings. Not here: which store is opened (stores/open.py).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Self

import dagster as dg
from pydantic import Field, SecretStr

from sieis_platform.alerts import Alerts
from sieis_platform.ml.registry import Registry
from sieis_platform.settings import Settings
from sieis_platform.state import State
from sieis_platform.stores.archive import Archive
from sieis_platform.stores.hot import HotStore
from sieis_platform.stores.marts import Marts
from sieis_platform.stores.open import open_archive, open_hot, open_marts

#: Why schedules and sensors wait.
NO_ARCHIVE: Final = "there is no archive yet; run `sieis load FILE` or `sieis consume`"


class PlatformResource(dg.ConfigurableResource):
    """The stores and the model registry of this installation."""

    overrides: dict[str, Any] = Field(
        default_factory=dict,
        description="Settings given by whoever assembled the definitions; secrets are not among them.",
    )

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The resource of `settings`. Secrets stay in the environment: the UI shows a resource's configuration."""
        secret = {name for name in Settings.model_fields if isinstance(getattr(settings, name), SecretStr)}
        # None is left out: Dagster's configuration cannot hold it, and for a setting it means unset.
        given = settings.model_dump(mode="json", exclude_unset=True, exclude_none=True, exclude=secret)
        return cls(overrides=given)

    def settings(self) -> Settings:
        """The settings of this installation: `overrides`, and the environment for what they do not name."""
        return Settings(**self.overrides)

    def archive(self) -> Archive:
        """The archive."""
        return open_archive(self.settings())

    def marts(self) -> Marts:
        """The marts."""
        return open_marts(self.settings())

    def registry(self) -> Registry:
        """The model registry."""
        return Registry.of(self.settings())

    @contextmanager
    def alerts(self) -> Iterator[Alerts]:
        """The alerts; the operational state they are kept in is closed at the end."""
        settings = self.settings()
        with State.open(settings) as state:
            yield Alerts.of(settings, state)

    @contextmanager
    def state(self) -> Iterator[State]:
        """The operational state, closed at the end."""
        with State.open(self.settings()) as state:
            yield state

    @contextmanager
    def hot(self) -> Iterator[HotStore]:
        """The hot store, closed at the end."""
        store = open_hot(self.settings())
        try:
            yield store
        finally:
            store.close()
