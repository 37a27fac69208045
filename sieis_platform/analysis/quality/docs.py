"""The Data Docs site: Great Expectations' pages of suites and results, made from what the mart holds.

Belongs here: making the site. Not here: where it lies, when it is made (defs/quality/assets).

The pages Great Expectations writes load styles, scripts and logos from six hosts when they are looked at. They are made
to stand alone: without scripts, with one style sheet and an index of our own.
"""

import datetime as dt
import html
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import great_expectations as gx
import polars as pl
from great_expectations.core import ExpectationSuiteValidationResult, ExpectationValidationResult
from great_expectations.core.run_identifier import RunIdentifier
from great_expectations.data_context.data_context.abstract_data_context import AbstractDataContext
from great_expectations.data_context.types.resource_identifiers import (
    ExpectationSuiteIdentifier,
    ValidationResultIdentifier,
)
from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

from sieis_platform.analysis.quality.evaluate import context
from sieis_platform.analysis.quality.suites import SUITES, suite
from sieis_platform.stores.site import INDEX, publish

_SITE: Final = "sieis"
_STYLES: Final = "sieis.css"
_BATCH: Final = "rows"
#: Results of one suite that have a page, the newest; older ones are in the mart. A page takes about 50 ms to make.
RESULTS_A_SUITE: Final = 10

_SCRIPTS: Final = re.compile(r"<script\b.*?</script>", re.DOTALL | re.IGNORECASE)
_FOREIGN: Final = re.compile(r"<(?:link|img)\b[^>]*(?:href|src)\s*=\s*[\"']https?:[^>]*>", re.IGNORECASE)
_ICON: Final = re.compile(r"<link\b[^>]*\bicon\b[^>]*>", re.IGNORECASE)
_FOOTER: Final = re.compile(r"<footer>.*?</footer>", re.DOTALL | re.IGNORECASE)


class _Page(NamedTuple):
    """One line of the index."""

    judged_at: dt.datetime
    suite: str
    days: str
    checks: str
    passed: bool
    path: str


def build(results: pl.DataFrame, folder: Path) -> Path:
    """Publish the site of these results (RESULTS_SCHEMA) in `folder`, in place of the one there; the path of its index.

    Whoever looks meanwhile sees the old site or the new one, also where the process is killed. Raises: OSError.
    """
    return publish(folder, lambda draft: _write(results, draft)) / INDEX


def _write(results: pl.DataFrame, folder: Path) -> None:
    made = context()
    backend = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder)}
    site: dict[str, Any] = {"class_name": "SiteBuilder", "show_how_to_buttons": False, "store_backend": backend}
    made.add_data_docs_site(_SITE, site)  # pyright: ignore[reportArgumentType] - a typed dict that plain ones satisfy
    for name in SUITES:
        made.suites.add(suite(name))
    pages = [_keep(made, rows) for rows in _newest(results)]
    made.build_data_docs(build_index=False)
    (folder / INDEX).write_text(_index(pages), encoding="utf-8")
    shutil.rmtree(folder / "static", ignore_errors=True)  # logos, animations, fonts: nothing shows them
    (folder / "static" / "styles").mkdir(parents=True)
    styles = files("sieis_platform.analysis.quality").joinpath("data_docs.css").read_text(encoding="utf-8")
    (folder / "static" / "styles" / _STYLES).write_text(styles, encoding="utf-8")
    for page in folder.rglob("*.html"):
        root = "../" * (len(page.relative_to(folder).parts) - 1)
        page.write_text(_alone(page.read_text(encoding="utf-8"), root), encoding="utf-8")


def _newest(results: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The rows of each evaluation of a suite, the newest of each suite, newest first."""
    key = ["suite", "asset", "judged_at", "first_day", "last_day"]
    known = results.filter(pl.col("suite").is_in(list(SUITES)), pl.col("results") != "[]")
    newest = known.select(key).unique().sort("judged_at", "first_day", "asset", descending=True)
    kept = newest.group_by("suite", maintain_order=True).head(RESULTS_A_SUITE).select(key)
    for one in kept.sort("judged_at", "suite", "first_day", descending=[True, False, True]).iter_rows(named=True):
        yield known.filter(pl.all_horizontal(pl.col(name) == value for name, value in one.items()))


def _keep(made: AbstractDataContext, rows: pl.DataFrame) -> _Page:
    """Give Great Expectations one evaluation of a suite back, and say where its page will be."""
    first = rows.row(0, named=True)
    judged_at = dt.datetime.fromtimestamp(first["judged_at"] / 1e9, dt.UTC)
    days = f"{first['first_day']} to {first['last_day']}"
    run = RunIdentifier(run_name=f"{first['asset']} {days}", run_time=judged_at)
    identifier = ExpectationSuiteIdentifier(first["suite"])
    key = ValidationResultIdentifier(expectation_suite_identifier=identifier, run_id=run, batch_identifier=_BATCH)
    found = [_result(one) for text in rows["results"] for one in json.loads(text)]
    passed = sum(bool(one.success) for one in found)
    made.validation_results_store.set(
        key,
        ExpectationSuiteValidationResult(
            success=passed == len(found),
            results=found,
            suite_name=first["suite"],
            statistics={
                "evaluated_expectations": len(found),
                "successful_expectations": passed,
                "unsuccessful_expectations": len(found) - passed,
                "success_percent": 100 * passed / len(found),
            },
            meta={
                "run_id": run,
                "great_expectations_version": gx.__version__,
                "batch_kwargs": {"data_asset_name": first["asset"]},
            },
        ),
    )
    broken = rows.filter(~pl.col("passed"))["check_name"].to_list()
    checks = f"broken: {', '.join(broken)}" if broken else f"{', '.join(rows['check_name'])}"
    folder = f"validations/{first['suite']}/{'/'.join(run.to_tuple())}"
    return _Page(judged_at, first["suite"], f"{first['asset']}, {days}", checks, not broken, f"{folder}/{_BATCH}.html")


def _result(stored: Mapping[str, Any]) -> ExpectationValidationResult:
    expectation = stored["expectation_config"]
    return ExpectationValidationResult(
        success=stored["success"],
        expectation_config=ExpectationConfiguration(
            type=expectation["type"],
            kwargs=expectation["kwargs"],
            meta=expectation.get("meta"),
            severity=expectation.get("severity"),
        ),
        result=stored["result"],
        meta=stored.get("meta"),
        exception_info=stored.get("exception_info"),
    )


def _alone(page: str, root: str) -> str:
    """A page without scripts and without anything that another host would be asked for."""
    page = _FOOTER.sub("", _ICON.sub("", _FOREIGN.sub("", _SCRIPTS.sub("", page))))
    return page.replace("</head>", f'<link rel="stylesheet" href="{root}static/styles/{_STYLES}"></head>', 1)


def _index(pages: Sequence[_Page]) -> str:
    text = html.escape
    results = "".join(
        f'<tr class="{"passed" if page.passed else "broken"}"><td>{page.judged_at:%Y-%m-%d %H:%M:%S} UTC</td>'
        f'<td><a href="{quote(page.path)}">{text(page.suite)}</a></td><td>{text(page.days)}</td>'
        f"<td>{text(page.checks)}</td></tr>"
        for page in pages
    )
    suites = "".join(f'<li><a href="expectations/{name}.html">{name}</a></li>' for name in SUITES)
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Data Docs: SIEIS</title></head>'
        '<body class="index"><h1>Data Docs</h1><p>What is expected of the data, and what was found. All results are in '
        "the mart <code>quality_results</code>; here are the newest of each suite.</p><h2>Results</h2>"
        f"<table><thead><tr><th>judged</th><th>suite</th><th>asset and days</th><th>checks</th></tr></thead>"
        f"<tbody>{results}</tbody></table><h2>Suites</h2><ul>{suites}</ul></body></html>"
    )
