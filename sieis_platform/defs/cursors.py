"""What a sensor keeps between two looks. Belongs here: reading it. Not here: what each sensor keeps."""

from typing import TypeVar

import dagster as dg
import msgspec

_Cursor = TypeVar("_Cursor")


def decoded(cursor: str | None, kind: type[_Cursor]) -> _Cursor | None:
    """The cursor, as JSON of that kind; None where there is none, or one that an earlier release or a person has left.

    Whoever gets None begins anew: a cursor that cannot be read must not make every tick fail until someone resets it.
    """
    try:
        return msgspec.json.decode(cursor, type=kind) if cursor else None
    except msgspec.MsgspecError:
        return None


def decoded_or_new(context: dg.SensorEvaluationContext, kind: type[_Cursor], costs: str) -> _Cursor:
    """As `decoded`; where there is none `kind()`, and what it `costs` to begin anew is in the tick's log."""
    found = decoded(context.cursor, kind)
    if found is None and context.cursor:
        context.log.warning(f"the cursor is none of this release: {costs}")
    return found or kind()
