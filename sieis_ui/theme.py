"""Colours and the little CSS of the dashboard, for light and dark; the rest of the theme is .streamlit/config.toml.

Belongs here: what is about looks alone. Not here: which chart uses what.
"""

from dataclasses import dataclass
from typing import Final

import streamlit as st

#: Perceptually even and safe for every kind of colour blindness (Smith and van der Walt, 2015).
SEQUENTIAL: Final = "viridis"


@dataclass(frozen=True)
class Ink:
    """Colours that differ between the modes; blue and vermillion after Okabe and Ito (2008), adjusted for contrast."""

    text: str
    muted: str
    line: str
    surface: str
    accent: str
    alarm: str


LIGHT: Final = Ink("#17232e", "#5a6875", "#d5dde5", "#ffffff", "#0f5c8a", "#c44f00")
DARK: Final = Ink("#e6edf3", "#9fb0bf", "#2e3a46", "#10161c", "#67b7e8", "#ff8a3d")


def ink() -> Ink:
    """The colours of the mode the browser shows."""
    return DARK if st.context.theme.type == "dark" else LIGHT


# Refreshing must not be felt: Streamlit dims what a running fragment has not yet redrawn, and shows a spinner.
# Captions at Streamlit's 60% opacity are below the contrast of WCAG AA on our backgrounds.
# The floor plan keeps the proportions of the room on a phone (the chart fills its container).
_CSS: Final = """
<style>
[data-testid="stMainBlockContainer"] { max-width: 1500px; padding-bottom: 2.5rem; }
[data-testid="stMain"] [data-stale="true"] { opacity: 1 !important; transition: none !important; }
[data-testid="stStatusWidget"] { display: none; }
[data-testid="stMain"] [data-testid="stCaptionContainer"] { opacity: 0.85; }
[data-testid="stMain"] h3 { padding: 0.25rem 0 0.5rem; }
@media (max-width: 640px) {
  [data-testid="stMainBlockContainer"] { padding-left: 0.9rem; padding-right: 0.9rem; }
  .st-key-floor { height: 330px !important; }
  .st-key-quantity button { padding-left: 0.55rem; padding-right: 0.55rem; }
  .st-key-kpis [data-testid="stColumn"] { min-width: calc(50% - 0.5rem); flex: 1 1 calc(50% - 0.5rem); }
}
</style>
"""


def apply_css() -> None:
    """Put the page's own CSS in place; once a page run."""
    st.html(_CSS)
