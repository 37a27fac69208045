"""What every command needs first: the settings, read once, and the logs configured by them.

Belongs here: that one entrance from the environment. Not here: what a setting means (sieis_platform.settings).
"""

from functools import cache
from typing import TYPE_CHECKING

from sieis_platform.errors import FatalError

if TYPE_CHECKING:
    from sieis_platform.settings import Settings


class SettingsError(FatalError):
    """One or more settings have values that cannot be used; the text names each, never its value."""


@cache
def load_settings(*, complete: bool = True) -> "Settings":
    """The settings of this process; the first call reads the environment and `.env` and configures the logs.

    `complete` holds them to the profile: `services` must name every server. Who brings the servers up cannot ask that.

    Raises: SettingsError, one line for each setting that is wrong; ProfileError, one for each that is missing.
    """
    from sieis_cli.logs import configure
    from sieis_cli.profile import require_servers

    settings = read_settings()
    if complete and settings.profile == "services":
        require_servers(settings)
    configure(settings.log_level, settings.log_format)
    return settings


def read_settings() -> "Settings":
    """The settings as a process that starts now would find them. Raises: SettingsError."""
    # Imported here: pydantic takes a third of a second that `sieis --help` need not pay.
    from pydantic import ValidationError
    from pydantic_settings import SettingsError as UnparsedSettingError

    from sieis_platform.settings import Settings

    try:
        return Settings()  # pyright: ignore[reportCallIssue] - every field has a default
    except ValidationError as error:
        raise SettingsError(_explain(error.errors(include_url=False, include_input=False))) from None
    except UnparsedSettingError as error:
        raise SettingsError(f"a setting could not be read: {error}") from None
    except UnicodeDecodeError as error:
        raise SettingsError(
            f".env is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None


def _explain(errors: list) -> str:
    lines = [f"  SIEIS_{'_'.join(str(part) for part in error['loc']).upper()}: {error['msg']}" for error in errors]
    return "\n".join(["settings that cannot be used (see docs/settings.md):", *lines])
