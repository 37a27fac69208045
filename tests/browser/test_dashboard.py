"""The dashboard in a browser, on the real API: what is visible, in both themes, on a desk and in a hand."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import pytest
from playwright.sync_api import Browser, Page, expect

DESK = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}
Start = Callable[..., AbstractContextManager[None]]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


class Launch(NamedTuple):
    """What starts the parts of an installation: the API on a directory, a dashboard of an API's port."""

    api: Start
    dashboard: Callable[..., str]
    new_port: Callable[[], int]


@pytest.fixture(scope="module")
def launch(api: Start, dashboard: Callable[..., str], new_port: Callable[[], int]) -> Launch:
    return Launch(api, dashboard, new_port)


@pytest.fixture(scope="module")
def site(filled: Path, launch: Launch) -> Iterator[str]:
    """Address of a dashboard of the filled building."""
    port = launch.new_port()
    with launch.api(filled, port):
        yield launch.dashboard(port)


@contextmanager
def opened(
    browser: Browser, url: str, *, size: dict[str, int] = DESK, theme: Literal["light", "dark"] = "light"
) -> Iterator[Page]:
    """The page, in a time zone far from UTC; fails on an error in the console, and on a request to another host."""
    complaints: list[str] = []
    context = browser.new_context(
        viewport={"width": size["width"], "height": size["height"]}, color_scheme=theme, timezone_id="Asia/Tokyo"
    )
    page = context.new_page()
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda request: (
            None
            if url[7:] in request.url or request.url.startswith(("data:", "blob:"))
            else complaints.append(request.url)
        ),
    )
    page.goto(url)
    try:
        yield page
    finally:
        context.close()
    assert complaints == []


def refreshed(page: Page) -> None:
    """Wait until the page has drawn another look at the building."""
    stamp = page.get_by_text("refreshed ")
    expect(stamp).to_be_visible(timeout=60_000)
    expect(stamp).not_to_have_text(stamp.inner_text(), timeout=60_000)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_everything_is_there_and_nothing_sticks_out(
    browser: Browser, site: str, size: dict[str, int], theme: Literal["light", "dark"]
):
    with opened(browser, site, size=size, theme=theme) as page:
        for text in ("Building overview", "Live", "Floor plan", "Anomalies", "Latest readings"):
            expect(page.get_by_text(text).first).to_be_visible(timeout=60_000)
        expect(page.get_by_text("5 of 54 motes reporting")).to_be_visible()
        expect(page.get_by_text("Temperature over 24 hours")).to_be_visible()
        expect(page.get_by_text("Model sieis-anomaly version 3")).to_be_visible()
        metrics = page.get_by_test_id("stMetric")
        expect(metrics).to_have_count(4)
        expect(metrics.nth(0)).to_contain_text("22.0")  # the median of 20.5, 21.5, 22.5 and 23.5; 122.153 is not in it
        expect(metrics.nth(0)).to_contain_text("1 of 5 impossible")
        expect(metrics.nth(3)).to_contain_text("Battery, V")
        expect(page.get_by_text("2,400 readings, 48 impossible values left out")).to_be_visible()
        refreshed(page)
        overflow = "() => [document.documentElement, document.querySelector('[data-testid=stMain]')]"
        wide = page.evaluate(f"() => ({overflow})().map(e => e.scrollWidth - e.clientWidth)")
        assert wide == [0, 0]
        expect(page.get_by_test_id("stException")).to_have_count(0)


def test_the_theme_follows_the_system_and_text_has_contrast(browser: Browser, site: str):
    for theme in ("light", "dark"):
        with opened(browser, site, theme=theme) as page:
            refreshed(page)
            colours = page.evaluate(
                """() => {
                const rgb = s => s.match(/[0-9.]+/g).slice(0, 3).map(Number);
                const light = c => c.map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
                    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
                const back = rgb(getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor);
                const texts = '[data-testid=stMarkdownContainer] p, [data-testid=stMetricValue]';
                return [...document.querySelectorAll(texts)]
                    .filter(e => e.offsetParent && !e.closest('[data-testid=stMetricDelta]')).map(e => {
                    let opacity = 1;
                    for (let up = e; up; up = up.parentElement) opacity *= getComputedStyle(up).opacity;
                    const seen = rgb(getComputedStyle(e).color).map((v, i) => v * opacity + back[i] * (1 - opacity));
                    const [a, b] = [light(seen), light(back)];
                    return [e.textContent, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), b];
                });
            }"""
            )
            assert len(colours) > 10
            assert {text: ratio for text, ratio, _ in colours if ratio < 4.5} == {}
            assert all((back > 0.5) == (theme == "light") for _, _, back in colours)


def test_a_refresh_redraws_no_chart_and_no_table(browser: Browser, site: str):
    with opened(browser, site) as page:
        refreshed(page)
        drawn = "[data-testid=stVegaLiteChart] svg.marks, [data-testid=stDataFrame] canvas"
        page.wait_for_function(f"() => document.querySelectorAll('{drawn}').length >= 4")
        count = page.evaluate(f"() => (window.drawn = [...document.querySelectorAll('{drawn}')]).length")
        refreshed(page)
        assert page.evaluate("() => window.drawn.filter(e => e.isConnected).length") == count


def test_another_quantity_colours_the_plan_and_the_day(browser: Browser, site: str):
    with opened(browser, site) as page:
        page.get_by_text("Humidity", exact=True).click(timeout=60_000)
        expect(page.get_by_text("Humidity over 24 hours")).to_be_visible()
        expect(page.locator(".st-key-floor svg.marks")).to_contain_text("Humidity, %RH")


def test_hovering_a_mote_tells_its_values_age_and_state(browser: Browser, site: str):
    with opened(browser, site) as page:
        refreshed(page)
        page.locator(".st-key-floor svg.marks .mark-text text", has_text="23").first.hover(force=True)
        tip = page.locator("#vg-tooltip-element")
        expect(tip).to_contain_text("122.2 °C (impossible)")
        expect(tip).to_contain_text("2.05 V")
        expect(tip).to_contain_text("Impossible, Low battery")


def test_an_empty_platform_says_how_to_fill_it_then_shows_what_came(
    browser: Browser, empty: Path, filled: Path, launch: Launch
):
    port = launch.new_port()
    url = launch.dashboard(port)
    with opened(browser, url) as page:
        expect(page.get_by_text("The API is not running")).to_be_visible(timeout=60_000)
        expect(page.get_by_text("sieis up", exact=False).first).to_be_visible()
        with launch.api(empty, port):
            expect(page.get_by_text("No readings yet")).to_be_visible(timeout=60_000)
            expect(page.get_by_text("sieis load FILE")).to_be_visible()
            expect(page.get_by_text("make demo")).to_be_visible()
        expect(page.get_by_text("The API is not running")).to_be_visible(timeout=60_000)
        with launch.api(filled, port):
            expect(page.get_by_text("of 54 motes reporting")).to_be_visible(timeout=60_000)


def test_a_wrong_key_is_told_apart_from_an_absent_api(browser: Browser, empty: Path, launch: Launch):
    port = launch.new_port()
    with launch.api(empty, port, SIEIS_API_KEY="right-key-for-this-test"):
        with opened(browser, launch.dashboard(port, SIEIS_API_KEY="wrong-key-for-this-test")) as page:
            expect(page.get_by_text("does not let this dashboard in")).to_be_visible(timeout=60_000)
            assert "wrong-key" not in page.content()
        with opened(browser, launch.dashboard(port, SIEIS_API_KEY="right-key-for-this-test")) as page:
            expect(page.get_by_text("No readings yet")).to_be_visible(timeout=60_000)


def test_one_broken_mart_takes_its_own_panel_only(browser: Browser, filled: Path, tmp_path: Path, launch: Launch):
    broken = tmp_path / "broken"
    shutil.copytree(filled, broken)
    for entry in (broken / "marts" / "hourly_aggregates" / "_delta_log").iterdir():
        entry.write_bytes(b"not a log")
    port = launch.new_port()
    with launch.api(broken, port), opened(browser, launch.dashboard(port)) as page:
        expect(page.get_by_text("Not available now.")).to_have_count(1, timeout=60_000)
        expect(page.get_by_role("button", name="Retry")).to_have_count(1)
        expect(page.get_by_text("of 54 motes reporting")).to_be_visible()
        expect(page.get_by_text("Model sieis-anomaly version 3")).to_be_visible()
        shutil.rmtree(broken / "marts" / "hourly_aggregates")
        shutil.copytree(filled / "marts" / "hourly_aggregates", broken / "marts" / "hourly_aggregates")
        page.get_by_role("button", name="Retry").click()
        expect(page.get_by_text("2,400 readings, 48 impossible")).to_be_visible(timeout=60_000)
