"""Dead letters: an alert when there are new ones, and the job that sends mended ones again.

Belongs here: the sensor and the job. Not here: how letters are kept and sent (sieis_streaming).
"""

from typing import Final

import dagster as dg
import msgspec
from pydantic import Field

from sieis_platform.defs.cursors import decoded_or_new
from sieis_platform.defs.failures import dagster_failures
from sieis_platform.defs.metadata import preview_of
from sieis_platform.defs.resources import NO_ARCHIVE, PlatformResource
from sieis_platform.defs.stream.assets import DEAD_LETTERS, LETTER_LINEAGE
from sieis_platform.defs.stream.ledger import gap_text, places, stream_since, told_of_places
from sieis_platform.errors import RetriableError
from sieis_platform.state import NewAlert
from sieis_platform.stores.since import Mark
from sieis_streaming.dead_letter_desk import replay_letters

#: What a cursor costs that cannot be read.
_ANEW: Final = "dead letters are counted anew from where the archive's log begins, and some may be told again"
_LOOK_SECONDS: Final = 60
_LISTED: Final = 50


class Cursor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far the archive's log was read, and the dead letters counted on the way."""

    mark: Mark | None = None
    letters: int = 0


@dg.sensor(
    name="new_dead_letters",
    minimum_interval_seconds=_LOOK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells of new dead letters, from the archive's ledger: how many and where; and alerts.",
)
def new_dead_letters(
    context: dg.SensorEvaluationContext, platform: PlatformResource
) -> dg.SensorResult | dg.SkipReason:
    """Count the dead letters in what the archive's ledger has taken in since the last look."""
    archive = platform.archive()
    if not archive.exists():
        return dg.SkipReason(NO_ARCHIVE)
    cursor = decoded_or_new(context, Cursor, _ANEW)
    try:
        seen = stream_since(archive, cursor.mark)
    except RetriableError as error:
        return dg.SkipReason(f"{error}; the next look begins where this one did")
    if seen.gap is not None and cursor.mark is not None:
        context.log.warning(gap_text(seen.gap))
    found = places(seen.entries, "dead")
    new = int(found["records"].sum())
    cursor = Cursor(mark=seen.mark, letters=cursor.letters + new)
    text = msgspec.json.encode(cursor).decode()
    if not new:
        return dg.SensorResult(skip_reason="no new dead letters", cursor=text)
    alert = NewAlert(
        "dead_letters",
        f"{new:,} new dead letter(s)",
        f"{told_of_places(found)}. `sieis dlq list` shows them and why; the runbook says what a reason usually means.",
        "warning",
    )
    with platform.alerts() as alerts:
        alerts.raise_alert(alert)
    event = dg.AssetMaterialization(
        DEAD_LETTERS,
        metadata={
            "dagster/row_count": cursor.letters,
            "preview": preview_of(found),
            "new": new,
            "archive_version": seen.mark.version,
            **LETTER_LINEAGE,
        },
    )
    return dg.SensorResult(asset_events=[event], cursor=text)


class ReplayConfig(dg.Config):
    """What to send again."""

    positions: list[str] = Field(
        default_factory=list, description="Only these (as `sieis dlq list` prints them); none: all that are open."
    )


@dg.op(description="Send the original bytes of dead letters to the topic again.")
def replay_dead_letters_op(context: dg.OpExecutionContext, platform: PlatformResource, config: ReplayConfig) -> None:
    """As `sieis dlq replay`: a letter is sent, then marked; what is still bad comes back once."""
    with dagster_failures():
        letters = replay_letters(platform.settings(), config.positions)
    context.log.info("%d dead letter(s) sent again", len(letters))
    context.log_event(
        dg.AssetObservation(
            DEAD_LETTERS,
            metadata={
                "replayed": len(letters),
                "positions": dg.MetadataValue.json([str(letter.position) for letter in letters[:_LISTED]]),
            },
        )
    )


@dg.job(
    description="Send dead letters to the topic again: all open ones, or those named. As `sieis dlq replay`.",
    tags={"dagster/max_runtime": "1800"},
)
def replay_dead_letters() -> None:
    """The one step."""
    replay_dead_letters_op()


def definitions() -> dg.Definitions:
    """Sensor and job."""
    return dg.Definitions(jobs=[replay_dead_letters], sensors=[new_dead_letters])
