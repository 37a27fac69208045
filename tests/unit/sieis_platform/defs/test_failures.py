"""Which failures of a step Dagster repeats: what passes by itself, and nothing else; in assets and checks alike."""

import dagster as dg
import pytest

from sieis_platform.defs import failures
from sieis_platform.errors import FatalError, RetriableError

WAITS = failures.RETRIES


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "RETRIES", dg.RetryPolicy(max_retries=failures.RETRIES.max_retries, delay=0))


def attempts(error: Exception, failing: int) -> tuple[int, bool]:
    """Attempts of a step that raises `error` the first `failing` times, and whether the run succeeded."""
    made = 0

    @dg.asset
    def made_of_it() -> None:
        nonlocal made
        with failures.dagster_failures():
            made += 1
            if made <= failing:
                raise error

    result = dg.materialize([made_of_it], raise_on_error=False)
    return made, result.success


def test_an_outage_is_waited_out() -> None:
    assert attempts(RetriableError("the store is away"), 2) == (3, True)


def test_a_long_outage_fails_the_step_after_three_more_attempts() -> None:
    assert attempts(RetriableError("the store is away"), 99) == (4, False)


@pytest.mark.parametrize("error", [FatalError("a wrong setting"), ZeroDivisionError("a bug")])
def test_what_will_not_pass_is_not_repeated(error: Exception) -> None:
    assert attempts(error, 1) == (1, False)


def test_a_check_waits_too() -> None:
    made = 0

    @dg.asset
    def checked() -> None: ...

    @dg.asset_check(asset=checked)
    def complete() -> dg.AssetCheckResult:
        nonlocal made
        with failures.dagster_failures():
            made += 1
            if made == 1:
                raise RetriableError("the store is away")
        return dg.AssetCheckResult(passed=True)

    assert dg.materialize([checked, complete]).success
    assert made == 2


@pytest.mark.parametrize(("attempt", "about"), [(1, 10), (2, 30), (3, 70)])
def test_the_waits_grow(attempt: int, about: int) -> None:
    assert all(about - 10 <= WAITS.calculate_delay(attempt) <= about + 10 for _ in range(50))


@pytest.mark.parametrize("error", [FatalError("a wrong setting"), RetriableError("a wrong setting")])
def test_why_a_step_failed_is_our_own_word(error: Exception) -> None:
    @dg.asset
    def made_of_it() -> None:
        with failures.dagster_failures():
            raise error

    result = dg.materialize([made_of_it], raise_on_error=False)
    (event,) = (event for event in result.all_events if event.is_step_failure)
    assert failures.step_failure(event).endswith("a wrong setting")
