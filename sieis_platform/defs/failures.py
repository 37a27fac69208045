"""What Dagster should make of our errors: try again, or fail at once and say why; and what it says of them later.

Belongs here: that translation both ways, in one place. Not here: the errors.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import dagster as dg

from sieis_platform.errors import FatalError, RetriableError

#: After 10, 30 and 70 s, give or take 10: an outage of a store lasts minutes, and the next scheduled run comes within
#: the hour. Not given to the assets themselves: Dagster would then repeat steps that failed for good, or by a bug.
RETRIES: Final = dg.RetryPolicy(max_retries=3, delay=10, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)


@contextmanager
def dagster_failures() -> Iterator[None]:
    """Retriable errors ask for another attempt of the step, fatal ones fail it without one."""
    try:
        yield
    except RetriableError as error:
        attempt = dg.OpExecutionContext.get().retry_number + 1
        raise dg.RetryRequested(RETRIES.max_retries, seconds_to_wait=RETRIES.calculate_delay(attempt)) from error
    except FatalError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error


def step_failure(event: dg.DagsterEvent) -> str:
    """Why a step failed, from its failure event: what we said ourselves, else the innermost cause."""
    data = event.step_failure_data
    if data.user_failure_data and data.user_failure_data.description:
        return data.user_failure_data.description
    error = data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return error.message.strip() if error else "failed"
