"""Takes the dashboard's pictures of the documentation from a running `sieis up`: docs/images/overview*.png.

Belongs here: how they are taken. Not here: tests of what is seen (tests/browser).
"""

import argparse
from pathlib import Path

from playwright.sync_api import Browser, expect, sync_playwright

IMAGES = Path(__file__).parents[1] / "docs" / "images"
#: A desk and a phone; the whole of the first page of each is kept.
SHOTS = {
    "overview.png": (1440, 1400, "light"),
    "overview-dark.png": (1440, 1400, "dark"),
    "overview-phone.png": (390, 844, "light"),
}


def take(browser: Browser, url: str, name: str, folder: Path) -> None:
    """Take the picture `name` of the dashboard at `url` once it shows live values."""
    width, height, theme = SHOTS[name]
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if theme == "dark" else "light"
    )
    page = context.new_page()
    page.goto(url)
    stamp = page.get_by_text("refreshed ")
    expect(stamp).to_be_visible(timeout=60_000)
    # The second look at the building: by then the charts of the first are drawn.
    expect(stamp).not_to_have_text(stamp.inner_text(), timeout=60_000)
    page.screenshot(path=folder / name)
    context.close()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8501", help="address of the dashboard")
    parser.add_argument("--folder", type=Path, default=IMAGES, help="where the pictures go")
    parser.add_argument("--chromium", default=None, help="browser to use; default: the one Playwright installed")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=asked.chromium, args=["--no-sandbox", "--disable-gpu"])
        for name in SHOTS:
            take(browser, asked.url, name, asked.folder)
        browser.close()


if __name__ == "__main__":
    main()
