"""Dead letters: an alert when there are new ones, and the job that sends mended ones again.

Belongs here: the sensor and the job. Not here: how letters are kept and sent (sieis_streaming).
"""

from collections import Counter
from collections.abc import Mapping
from typing import Final

import dagster as dg
import msgspec
import polars as pl
from pydantic import Field

from sieis_platform.defs.failures import dagster_failures
from sieis_platform.defs.metadata import preview_of
from sieis_platform.defs.resources import PlatformResource
from sieis_platform.defs.stream.assets import DEAD_LETTERS, LETTER_LINEAGE
from sieis_platform.state import NewAlert
from sieis_streaming.dead_letter_desk import replay_letters
from sieis_streaming.reported import ConsumerDownError, NotConsumerMetricsError, read_reported

_LOOK_SECONDS: Final = 60
_LISTED: Final = 50


@dg.sensor(
    name="new_dead_letters",
    minimum_interval_seconds=_LOOK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells of new dead letters by reason, and alerts.",
)
def new_dead_letters(
    context: dg.SensorEvaluationContext, platform: PlatformResource
) -> dg.SensorResult | dg.SkipReason:
    """Compare what each consumer has counted with what it had at the last look."""
    settings = platform.settings()
    try:
        counted = read_reported(settings.consumer_metrics).dead_letters
    except (ConsumerDownError, NotConsumerMetricsError) as error:
        return dg.SkipReason(str(error))
    before = msgspec.json.decode(context.cursor, type=dict[str, dict[str, int]]) if context.cursor else {}
    new: Counter[str] = Counter()
    for url, reasons in counted.items():
        for reason, count in reasons.items():
            known = before.get(url, {}).get(reason, 0)
            new[reason] += count - known if count >= known else count  # a restarted consumer counts from 0
    text = msgspec.json.encode({**before, **counted}).decode()
    if not new.total():
        return dg.SensorResult(skip_reason="no new dead letters", cursor=text)
    by_reason = ", ".join(f"{reason} {count:,}" for reason, count in new.most_common() if count)
    alert = NewAlert(
        "dead_letters",
        f"{new.total():,} new dead letter(s)",
        f"{by_reason}. `sieis dlq list` shows them; the runbook says what each reason usually means.",
        "warning",
    )
    with platform.alerts() as alerts:
        alerts.raise_alert(alert)
    told = dg.AssetMaterialization(
        DEAD_LETTERS,
        metadata={
            "dagster/row_count": sum(sum(reasons.values()) for reasons in counted.values()),
            "preview": preview_of(_by_reason(counted)),
            "new": new.total(),
            "new_by_reason": dg.MetadataValue.json(dict(new)),
            **LETTER_LINEAGE,
        },
    )
    return dg.SensorResult(asset_events=[told], cursor=text)


def _by_reason(counted: Mapping[str, Mapping[str, int]]) -> pl.DataFrame:
    """Letters that the consumers have counted, by reason, most first."""
    total: Counter[str] = Counter()
    for reasons in counted.values():
        total.update(reasons)
    return pl.DataFrame(total.most_common(), schema={"reason": pl.String, "letters": pl.Int64}, orient="row")


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
