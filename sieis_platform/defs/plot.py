"""Small plots for the metadata of assets: an SVG in markdown, a few hundred bytes, drawn without a library.

Belongs here: drawing. Not here: what is drawn.
"""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

_WIDTH: Final = 480
_HEIGHT: Final = 60
_MARGIN: Final = 4
_TITLE: Final = 14
_INK: Final = ("#2f6fb0", "#b0632f", "#3d8a4e", "#7a4fa3")  # legible on white and on dark alike


def lines(series: Mapping[str, Sequence[float | None]]) -> str | None:
    """Markdown of one line a series, each over its own scale, its range in its title; None where nothing is a line.

    Values are equally spaced; None leaves a gap.
    """
    known = {name: values for name, values in series.items() if sum(value is not None for value in values) > 1}
    if not known:
        return None
    step = _HEIGHT + _TITLE + 2 * _MARGIN
    parts = [_line(name, values, at * step, _INK[at % len(_INK)]) for at, (name, values) in enumerate(known.items())]
    height = step * len(parts)
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}">{"".join(parts)}</svg>'
    return f"![{', '.join(known)}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


def _line(name: str, values: Sequence[float | None], top: int, ink: str) -> str:
    present = [value for value in values if value is not None]
    low, high = min(present), max(present)
    scale = (_HEIGHT / (high - low)) if high > low else 0.0
    across = (_WIDTH - 2 * _MARGIN) / (len(values) - 1)
    base = top + _TITLE + _MARGIN + _HEIGHT
    path, pen_down = "", False
    for at, value in enumerate(values):
        if value is not None:
            path += f"{'L' if pen_down else 'M'}{_MARGIN + at * across:.1f} {base - (value - low) * scale:.1f}"
        pen_down = value is not None
    title = escape(f"{name}: {low:,.6g} to {high:,.6g}")
    return (
        f'<text x="{_MARGIN}" y="{top + _TITLE - 2}" font-family="sans-serif" font-size="11" fill="{ink}">'
        f"{title}</text>"
        f'<path d="{path}" fill="none" stroke="{ink}" stroke-width="1.5"/>'
    )
