"""The Data Docs site: all suites and the newest results, from the rows of the mart, without a foreign address."""

import datetime as dt
import re
import socket
from pathlib import Path
from urllib.parse import unquote

import polars as pl
import pytest

from sieis_platform.analysis.quality import tables
from sieis_platform.analysis.quality.docs import RESULTS_A_SUITE, build
from sieis_platform.analysis.quality.evaluate import evaluate
from sieis_platform.analysis.quality.suites import SUITES
from sieis_platform.analysis.quality.verdict import RESULTS_SCHEMA, Judged, results_frame

NOW_NS = 1_750_000_000_000_000_000
DAY = dt.date(2026, 5, 4)


def _results(count: int = 1, lag_minutes: int = 11) -> pl.DataFrame:
    verdicts = evaluate("hot_store_age", tables.age(0, lag_minutes * 60 * 10**9))
    runs = [Judged("hot_store", DAY, DAY, 7, f"run-{i}", NOW_NS + i * 10**9) for i in range(count)]
    return pl.concat(results_frame(run, verdicts) for run in runs)


def _pages(folder: Path, kind: str) -> list[Path]:
    return sorted((folder / kind).rglob("*.html"))


def test_the_site_has_every_suite_and_what_was_found(tmp_path: Path) -> None:
    index = build(_results(), tmp_path / "site")
    assert index == tmp_path / "site" / "current" / "index.html"
    assert [page.stem for page in _pages(index.parent, "expectations")] == sorted(SUITES)
    suite = (index.parent / "expectations" / "archive_readings.html").read_text()
    for word in ("temperature", "humidity", "light", "voltage"):
        assert word in suite
    (page,) = _pages(index.parent, "validations")
    assert "lag_minutes" in page.read_text()
    assert "Failed" in page.read_text()
    assert "broken: freshness" in index.read_text()


def test_every_link_leads_somewhere_and_none_out_of_the_site(tmp_path: Path) -> None:
    site = build(_results(), tmp_path / "site").parent
    pages = list(site.resolve().rglob("*.html"))
    assert len(pages) == 2 + len(SUITES)
    for page in pages:
        text = page.read_text()
        assert "<script" not in text
        for target in re.findall(r'(?:href|src)="([^"#]+)"', text):
            assert (page.parent / unquote(target)).resolve().is_relative_to(site.resolve()), (page, target)
            assert (page.parent / unquote(target)).is_file(), (page, target)


def test_made_again_it_is_the_new_one(tmp_path: Path) -> None:
    site = build(_results(), tmp_path / "site").parent
    (site / "stray.html").touch()
    build(_results(lag_minutes=1), tmp_path / "site")
    assert "broken" not in (site / "index.html").read_text().split("<h2>")[1]
    assert [path.name for path in tmp_path.iterdir()] == ["site"]
    assert not (site / "stray.html").exists()


def test_only_the_newest_results_of_a_suite_have_a_page(tmp_path: Path) -> None:
    site = build(_results(RESULTS_A_SUITE + 3), tmp_path / "site").parent
    assert len(_pages(site, "validations")) == RESULTS_A_SUITE
    assert (site / "index.html").read_text().count("hot_store, 2026-05-04") == RESULTS_A_SUITE


def test_without_results_there_are_the_suites(tmp_path: Path) -> None:
    site = build(pl.DataFrame(schema=RESULTS_SCHEMA), tmp_path / "site").parent
    assert len(_pages(site, "expectations")) == len(SUITES)
    assert _pages(site, "validations") == []


def test_nothing_is_asked_of_or_told_to_another_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda _, address: called.append(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address: called.append(address) or [])
    build(_results(), tmp_path / "site")
    assert called == []
