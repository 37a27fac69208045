"""Charts as Altair specifications: floor plan, building day, timeline of anomalies.

Belongs here: how frames become marks, always in UTC, always with units. Not here: asking the API, placing on the page.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

import altair as alt
import polars as pl

from sieis_ui.building import State, duration_text
from sieis_ui.quantities import QUANTITIES, Quantity
from sieis_ui.theme import SEQUENTIAL, Ink

#: Tiles in a row where the platform knows no floor plan.
_TILES: Final = 9
#: More motes than this do not all get their number on the timeline's axis.
_TIMELINE_LABELS: Final = 12
_TIME_FORMAT: Final = "%Y-%m-%d %H:%M:%S"


#: The name under which every specification here refers to its rows.
ROWS: Final = "rows"


@dataclass(frozen=True)
class Drawing:
    """A Vega-Lite specification and its rows, apart: new rows under the same one need no redraw."""

    rows: pl.DataFrame
    spec: dict[str, Any]


def _texts(*columns: str) -> list[alt.Tooltip]:
    """A tooltip of these columns as they stand."""
    return [alt.Tooltip(field=column, type="nominal", title=column) for column in columns]


def placed(motes: pl.DataFrame) -> tuple[pl.DataFrame, bool]:
    """The motes with a place each, and whether these are real: without any position they stand in rows by number.

    Of a fleet with some positions, the motes without one are left out (the table has them).
    """
    known = motes.drop_nulls(["x", "y"])
    if known.height:
        return known, True
    index = pl.int_range(pl.len())
    return motes.with_columns(
        -(index % _TILES).cast(pl.Float64).alias("x"),
        (index // _TILES).cast(pl.Float64).alias("y"),
    ), False


def _value_texts() -> list[pl.Expr]:
    """Every value with its unit, and the word where it is impossible; a building's worth of rows, never more."""
    return [
        pl.struct(quantity.field, f"impossible_{quantity.field}")
        .map_elements(
            lambda row, q=quantity: q.text(row[q.field]) + (" (impossible)" if row[f"impossible_{q.field}"] else ""),
            return_dtype=pl.String,
        )
        .alias(quantity.label)
        for quantity in QUANTITIES.values()
    ]


def floor_plan(motes: pl.DataFrame, unheard: pl.DataFrame, quantity: Quantity, ink: Ink) -> Drawing:
    """Every mote at its place: a disc coloured by `quantity`, a triangle where impossible, a ring where silent.

    `motes` as of building.mote_frame, at least one; `unheard` as of building.unheard. Where all are silent the stream
    has stopped, and their last values are drawn.
    """
    marks, real = placed(motes)
    if marks["silent"].all():
        marks = marks.with_columns(silent=pl.lit(False))
    value = pl.col(quantity.field)
    impossible = pl.col(f"impossible_{quantity.field}")
    kind = pl.when("silent").then(pl.lit("silent")).when(impossible).then(pl.lit("impossible"))
    frame = marks.select(
        "mote_id",
        "x",
        "y",
        pl.when(~impossible & ~pl.col("silent")).then(value).alias("value"),
        kind.when(value.is_null()).then(pl.lit("none")).otherwise(pl.lit("value")).alias("kind"),
        pl.col("mote_id").cast(pl.String).alias("Mote"),
        *_value_texts(),
        pl.col("age_seconds").map_elements(duration_text, return_dtype=pl.String).alias("Age"),
        pl.when(pl.col("flags").list.len() > 0)
        .then(pl.col("flags").list.join(", "))
        .otherwise(pl.lit(str(State.OK)))
        .alias("State"),
    )
    if real:
        never = pl.lit("never reported")
        strangers = unheard.select(
            "mote_id", "x", "y", kind=pl.lit("never"), Mote=pl.col("mote_id").cast(pl.String), Age=never, State=never
        )
        frame = pl.concat([frame, strangers], how="diagonal").with_columns(
            pl.col(q.label).fill_null("–") for q in QUANTITIES.values()
        )
    low, high = _domain(frame["value"], quantity)
    frame = frame.with_columns(((pl.col("value") - low) / (high - low)).alias("shade"))
    tooltip = _texts("Mote", *(q.label for q in QUANTITIES.values()), "Age", "State")
    # The lab gives positions in metres from its upper right corner (Intel Lab Data page), so both axes are reversed.
    x = alt.X(
        "x:Q",
        axis=None,
        scale=alt.Scale(reverse=True, nice=False, domain=_margin(frame["x"])),
    )
    y = alt.Y(
        "y:Q",
        axis=None,
        scale=alt.Scale(reverse=True, nice=False, domain=_margin(frame["y"])),
    )
    # A disc of 28 px carries a two-digit number; on a phone the motes stand closer together.
    size = alt.ExprRef("width < 480 ? 300 : 720")
    font_size = alt.ExprRef("width < 480 ? 9 : 12")
    base = alt.Chart(alt.NamedData(ROWS)).encode(x=x, y=y, tooltip=tooltip)
    discs = (
        base.transform_filter("datum.kind == 'value'")
        .mark_circle(size=size, opacity=1, stroke=ink.text, strokeOpacity=0.5, strokeWidth=1)
        .encode(
            color=alt.Color(
                "value:Q",
                scale=alt.Scale(scheme=SEQUENTIAL, domain=[low, high]),
                legend=alt.Legend(
                    title=f"{quantity.label}, {quantity.unit}",
                    orient="bottom",
                    direction="horizontal",
                    gradientLength=alt.ExprRef("max(120, min(width - 20, 320))"),
                    gradientThickness=10,
                    titleFontSize=12,
                    labelFontSize=12,
                    offset=6,
                ),
            )
        )
    )
    rings = base.transform_filter("datum.kind != 'value' && datum.kind != 'impossible'").mark_point(
        size=size,
        shape="circle",
        filled=False,
        stroke=ink.muted,
        strokeDash=alt.ExprRef("datum.kind == 'never' ? [1, 4] : [4, 3]"),
        strokeWidth=alt.ExprRef("datum.kind == 'never' ? 1 : 1.8"),
        fill=ink.surface,
        opacity=1,
    )
    triangles = base.transform_filter("datum.kind == 'impossible'").mark_point(
        size=alt.ExprRef("width < 480 ? 340 : 820"),
        shape="triangle-up",
        filled=True,
        color=ink.alarm,
        stroke=ink.text,
        strokeWidth=1,
        opacity=1,
    )
    numbers = (
        base.mark_text(
            fontSize=font_size,
            fontWeight=600,
            dy=alt.ExprRef("datum.kind == 'impossible' ? 4 : 1"),
        )
        .encode(text="Mote:N", color=alt.Color("ink:N", scale=None))
        .transform_calculate(
            # Viridis turns from dark to light about the middle of its range.
            ink=f"datum.kind == 'impossible' ? '{ink.surface}' : datum.kind != 'value' ? '{ink.muted}' : "
            "datum.shade > 0.55 ? '#0b1015' : '#ffffff'"
        )
    )
    plan = alt.layer(rings, discs, triangles, numbers).properties(height="container", width="container")
    return Drawing(frame, plan.configure_view(stroke=ink.line, strokeWidth=1.5, cornerRadius=10).to_dict())


def _margin(positions: pl.Series) -> list[float]:
    """Span of the positions and a little more, so that no disc is cut (and one mote alone stands in the middle)."""
    low, high = float(positions.min()), float(positions.max())  # pyright: ignore[reportArgumentType] - never empty
    margin = max(0.06 * (high - low), 1.0)
    return [low - margin, high + margin]


def _domain(values: pl.Series, quantity: Quantity) -> tuple[float, float]:
    """Colour limits: the span of the values, rounded outwards to round numbers.

    At least ten display steps wide, so that noise is not painted as a difference; and round, so that most refreshes
    leave the specification as it is (another one is embedded anew, which closes an open tooltip).
    """
    seen = values.drop_nulls()
    if seen.is_empty():
        return quantity.low, quantity.high
    low, high = float(seen.min()), float(seen.max())  # pyright: ignore[reportArgumentType] - not empty, so both are floats
    span = max(high - low, 10 * 10.0**-quantity.digits)
    low, high = (low + high - span) / 2, (low + high + span) / 2
    magnitude = 10.0 ** math.floor(math.log10(span / 4))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= span / 4)
    return round(math.floor(low / step) * step, 9), round(math.ceil(high / step) * step, 9)


def building_day(aggregates: pl.DataFrame, quantity: Quantity, ink: Ink) -> Drawing:
    """Hourly mean and median of the building over a band from minimum to maximum (building.aggregate_frame)."""
    frame = aggregates.with_columns(
        pl.col("period_start").dt.strftime("%Y-%m-%d %H:%M").alias("Hour (UTC)"),
        *(
            pl.col(name).map_elements(quantity.text, return_dtype=pl.String).alias(label)
            for name, label in (
                ("avg", "Mean"),
                ("median", "Median"),
                ("min", "Minimum"),
                ("max", "Maximum"),
            )
        ),
        pl.col("record_count").alias("Readings"),
        pl.col("out_of_range_count").alias("Impossible values"),
    )
    tooltip = _texts(
        "Hour (UTC)",
        "Mean",
        "Median",
        "Minimum",
        "Maximum",
        "Readings",
        "Impossible values",
    )
    x = alt.X(
        "period_start:T",
        scale=alt.Scale(type="utc"),
        axis=alt.Axis(
            title="Hour, UTC",
            format="%H:%M",
            labelOverlap=True,
            grid=False,
            tickCount=8,
            labelFontSize=12,
        ),
    )
    title = f"{quantity.label}, {quantity.unit}"
    axis = alt.Axis(title=title, tickCount=5, labelFontSize=12, format=f",.{quantity.digits}~f")
    y = alt.Y("avg:Q", title=title, scale=alt.Scale(zero=False), axis=axis)
    base = alt.Chart(alt.NamedData(ROWS)).encode(x=x)
    band = base.mark_area(opacity=0.16, color=ink.accent, interpolate="monotone").encode(
        y=alt.Y("min:Q", title=title, scale=alt.Scale(zero=False), axis=axis),
        y2="max:Q",
    )
    mean = base.mark_line(color=ink.accent, strokeWidth=2.5, interpolate="monotone").encode(y=y)
    middle = base.mark_line(color=ink.accent, strokeWidth=1.5, strokeDash=[4, 4], interpolate="monotone").encode(
        y=alt.Y("median:Q", title=title)
    )
    hover = alt.selection_point(on="pointerover", nearest=True, encodings=["x"], empty=False, clear="pointerout")
    rule = (
        base.mark_rule(color=ink.muted)
        .encode(opacity=alt.condition(hover, alt.value(0.7), alt.value(0)), tooltip=tooltip)
        .add_params(hover)
    )
    dots = base.mark_circle(color=ink.accent, size=70, opacity=1).encode(y=y).transform_filter(hover)
    return Drawing(frame, alt.layer(band, middle, mean, rule, dots).properties(height=260).to_dict())


def anomaly_timeline(episodes: pl.DataFrame, ink: Ink) -> Drawing:
    """One line a mote, one bar an episode; columns of building.episodes."""
    frame = episodes.select(
        pl.col("mote_id").cast(pl.String).alias("Mote"),
        "start",
        "end",
        pl.col("start").dt.strftime(_TIME_FORMAT).alias("From (UTC)"),
        pl.col("end").dt.strftime(_TIME_FORMAT).alias("To (UTC)"),
        pl.col("count").alias("Anomalies"),
        pl.col("score").round(3).alias("Peak score"),
    )
    motes = [str(mote) for mote in sorted(episodes["mote_id"].unique().to_list())]
    x = alt.X(
        "start:T",
        scale=alt.Scale(type="utc"),
        axis=alt.Axis(
            title="Time, UTC",
            format="%b %d %H:%M",
            tickCount=5,
            labelOverlap=True,
            labelFontSize=12,
        ),
    )
    y = alt.Y(
        "Mote:N",
        sort=motes,
        axis=alt.Axis(
            title="Mote",
            labelFontSize=12,
            grid=True,
            labelOverlap=len(motes) > _TIMELINE_LABELS,
        ),
    )
    base = alt.Chart(alt.NamedData(ROWS)).encode(
        x=x,
        y=y,
        tooltip=_texts("Mote", "From (UTC)", "To (UTC)", "Anomalies", "Peak score"),
        color=alt.value(ink.alarm),
    )
    bars = base.mark_bar(height=8, cornerRadius=3).encode(x2="end:T")
    # An episode of one reading has no width: its start is a dot, so that nothing is invisible.
    dots = base.mark_circle(size=60, opacity=1)
    height = min(90 + 17 * len(motes), 300)
    return Drawing(frame, alt.layer(bars, dots).properties(height=height).to_dict())
