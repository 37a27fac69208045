"""Evaluating a suite on a table with Great Expectations, on its pandas engine.

Belongs here: the way into Great Expectations and back. Not here: what is expected (suites), the tables (tables).
"""

import datetime as dt
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import great_expectations as gx
import polars as pl
from great_expectations.core import ExpectationValidationResult
from great_expectations.data_context.data_context.abstract_data_context import AbstractDataContext
from great_expectations.data_context.types.base import (
    DataContextConfig,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)
from great_expectations.datasource.fluent.pandas_datasource import PandasDatasource
from great_expectations.expectations.metadata_types import FailureSeverity

from sieis_platform.analysis.quality.suites import suite
from sieis_platform.analysis.quality.verdict import SHOWN_ROWS, Value, Verdict
from sieis_platform.errors import FatalError

_FORMAT = {"result_format": "BASIC", "partial_unexpected_count": SHOWN_ROWS, "include_unexpected_rows": True}


class ExpectationError(FatalError):
    """An expectation could not be evaluated: its table is not what the suite is made for."""


def evaluate(name: str, table: pl.DataFrame) -> list[Verdict]:
    """The verdicts of the suite `name` on `table`, one a check, in the order of the suite.

    A check passes if all its expectations hold; an expectation holds on a table without rows.

    Raises: ExpectationError.
    """
    source = _source()
    asset = source.add_dataframe_asset(name)
    try:
        batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": table.to_pandas()})
        validated = batch.validate(suite(name), result_format=_FORMAT)
    finally:
        source.delete_asset(name)
    # Great Expectations evaluates by column: the suite's own order is the one to show.
    order = [expectation.meta["breach"] for expectation in suite(name).expectations if expectation.meta]
    results = sorted(validated.results, key=lambda result: order.index(_meta(result)["breach"]))
    checks = dict.fromkeys(_meta(result)["check"] for result in results)
    return [
        _verdict(check, name, [result for result in results if _meta(result)["check"] == check]) for check in checks
    ]


def context() -> AbstractDataContext:
    """A context that keeps nothing on disk, reports nothing and prints no progress."""
    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        progress_bars=ProgressBarsConfig(globally=False),
        analytics_enabled=False,
    )
    return gx.get_context(mode="ephemeral", project_config=config)


@functools.cache
def _source() -> PandasDatasource:
    return context().data_sources.add_pandas("sieis")


def _meta(result: ExpectationValidationResult) -> dict[str, Any]:
    return (result.expectation_config.meta if result.expectation_config is not None else None) or {}


def _verdict(check: str, name: str, results: Sequence[ExpectationValidationResult]) -> Verdict:
    rows: list[Mapping[str, Value]] = []
    texts: list[str] = []
    for result in results:
        if "unexpected_count" not in result.result:
            raise ExpectationError(f"{check} of {name} could not be evaluated: {_reason(result)}")
        # Taken out: the rows are shown in their own place, and Great Expectations would keep them a second time.
        unexpected = result.result.pop("unexpected_rows", None)
        if result.result["unexpected_count"]:
            texts.append(_text(result))
            if unexpected is not None:
                rows += [row for row in _records(unexpected) if row not in rows]
    critical = any(
        result.expectation_config is not None and result.expectation_config.severity == FailureSeverity.CRITICAL
        for result in results
    )
    height = max(result.result["element_count"] for result in results)
    worst = max(results, key=_share)
    return Verdict(
        check=check,
        suite=name,
        passed=all(result.success for result in results),
        severity="error" if critical else "warning",
        text="; ".join(texts) or f"{height:,} {'row' if height == 1 else 'rows'}, all as expected",
        rows=height,
        unexpected=int(worst.result["unexpected_count"]),
        share=_share(worst),
        unexpected_rows=rows[:SHOWN_ROWS],
        results=[result.to_json_dict() for result in results],
    )


def _share(result: ExpectationValidationResult) -> float:
    return float(result.result.get("unexpected_percent") or 0.0) / 100


def _text(result: ExpectationValidationResult) -> str:
    count, height = result.result["unexpected_count"], result.result["element_count"]
    return f"{_meta(result)['breach']}: {count:,} of {height:,} ({_share(result):.2%})"


def _reason(result: ExpectationValidationResult) -> str:
    told = result.exception_info or {}
    # By metric where a metric failed, flat where the expectation did.
    messages = [
        told.get("exception_message"),
        *(one.get("exception_message") for one in told.values() if isinstance(one, dict)),
    ]
    return next((str(message) for message in messages if message), "no reason given")


def _records(frame: Any) -> list[Mapping[str, Value]]:
    """Rows as plain data with times a person can read; what is not a number is null."""
    records: list[dict[str, Value]] = json.loads(frame.to_json(orient="records", double_precision=6))
    for record in records:
        for name in ("timestamp", "newest"):
            if isinstance(moment := record.get(name), int):
                record[name] = (
                    f"{dt.datetime.fromtimestamp(moment // 10**9, dt.UTC):%Y-%m-%dT%H:%M:%S}.{moment % 10**9:09d}Z"
                )
    return list(records)
