"""What Dagster should make of our errors: try again, or fail at once and say why.

Belongs here: that translation, in one place. Not here: the errors.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import dagster as dg

from sieis_platform.errors import FatalError, RetriableError

# An outage of a store lasts minutes; the next scheduled run comes within the hour.
_RETRIES: Final = 3
_RETRY_SECONDS: Final = 10


@contextmanager
def dagster_failures() -> Iterator[None]:
    """Retriable errors ask for another attempt of the step, fatal ones fail it without one."""
    try:
        yield
    except RetriableError as error:
        raise dg.RetryRequested(max_retries=_RETRIES, seconds_to_wait=_RETRY_SECONDS) from error
    except FatalError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error
