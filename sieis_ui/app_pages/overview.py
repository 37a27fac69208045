"""The Overview page: how the building is now, what it did today, and what looks strange.

Belongs here: layout and wording of this page. Not here: HTTP, computing, how charts are made.
"""

import datetime as dt
from typing import Literal

import polars as pl
import streamlit as st
from streamlit.elements.lib.column_types import ColumnConfig

from sieis_ui import building, charts, feed, states, theme
from sieis_ui.building import Freshness, State
from sieis_ui.client import Aggregate, ApiUnauthorisedError, ApiUnreachableError, Health
from sieis_ui.quantities import LOW_BATTERY_VOLTS, QUANTITIES, Quantity
from sieis_ui.snapshot import Derived, Live, Part

_TITLE = ":primary[SIEIS] Building overview"
_BADGES: dict[Freshness, tuple[str, str, Literal["green", "orange", "red"]]] = {
    Freshness.LIVE: ("Live", ":material/sensors:", "green"),
    Freshness.DELAYED: ("Delayed", ":material/schedule:", "orange"),
    Freshness.STOPPED: ("Stream stopped", ":material/sensors_off:", "red"),
}


def page() -> None:
    """Draw the page; its body refreshes itself without the rest."""
    st.fragment(_body, run_every=feed.settings().ui_refresh_seconds)()


def _body() -> None:
    live = feed.live()
    for part in (live.health, live.latest, live.motes):
        if isinstance(part.error, ApiUnreachableError | ApiUnauthorisedError):
            _title()
            states.no_api(part.error, feed.settings().ui_refresh_seconds)
            return
    if live.health.error is not None and live.latest.error is not None:
        _title()
        states.no_api(live.health.error, feed.settings().ui_refresh_seconds)
        return
    if live.latest.value == ():
        _title()
        states.no_readings()
        return
    motes = None if live.latest.value is None else building.mote_frame(live.latest.value, live.motes.value or ())
    derived = feed.derived()
    _header(live, motes)
    if motes is not None:
        _kpis(motes, derived.hourly.value or ())
    plan, strange = st.columns([11, 9], gap="medium")
    with plan:
        quantity = _floor(live, motes)
    with strange:
        _anomalies(derived)
    day, table = st.columns([11, 9], gap="medium")
    with day:
        _day(derived.hourly, quantity)
    with table:
        _table(live, motes)
    _footer(live.health.value, live.taken_at)


def _title() -> None:
    st.title(_TITLE, anchor=False)


def _header(live: Live, motes: pl.DataFrame | None) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.title(_TITLE, anchor=False, width="content")
        if motes is None:
            st.badge("Live readings not available", icon=":material/warning:", color="orange")
        else:
            label, icon, colour = _BADGES[building.summary(motes).freshness]
            st.badge(label, icon=icon, color=colour)
    if motes is None:
        return
    now = building.summary(motes, live.motes.value or ())
    newest = motes["timestamp"].max()
    when = f"{newest:%Y-%m-%d %H:%M:%S} UTC" if isinstance(newest, dt.datetime) else "unknown"
    st.markdown(
        f"**{now.reporting}** of **{now.fleet}** motes reporting · newest reading "
        f"**{building.duration_text(now.newest_age_seconds)}** ago ({when})"
    )
    if now.freshness is Freshness.STOPPED:
        st.warning(
            "No new readings arrive; what you see is the last known state. "
            "`sieis up` runs the stream (or `sieis simulate` and `sieis consume`).",
            icon=":material/sensors_off:",
        )


def _kpis(motes: pl.DataFrame, hourly: tuple[Aggregate, ...]) -> None:
    now = building.reporting_or_all(motes)
    with st.container(key="kpis"):
        for column, quantity in zip(st.columns(4, gap="small"), QUANTITIES.values(), strict=True):
            figure = building.median(now, quantity)
            trend = building.aggregate_frame(hourly, quantity)["median"].drop_nulls().to_list()
            column.metric(
                f"{quantity.label}, {quantity.unit}",
                "–" if figure.value is None else f"{figure.value:,.{quantity.digits}f}",
                delta=_judgement(figure),
                delta_color="primary",
                delta_arrow="off",
                icon=quantity.icon,
                border=True,
                chart_data=trend if len(trend) > 1 else None,
                chart_type="area",
                help=f"Median over the motes reporting now, of values between {quantity.low:g} and {quantity.high:,g} "
                f"{quantity.unit}. The line: hourly median of the building.",
            )


def _judgement(figure: building.Median) -> str:
    seen = figure.plausible + figure.impossible
    if not seen:
        return "no values"
    return f":material/warning: {figure.impossible} of {seen} impossible" if figure.impossible else f"{seen} plausible"


def _floor(live: Live, motes: pl.DataFrame | None) -> Quantity:
    with st.container(border=True, height="stretch"):
        st.subheader("Floor plan", anchor=False)
        field = st.segmented_control(
            "Quantity shown on the plan and in the chart",
            list(QUANTITIES),
            default="temperature",
            required=True,
            format_func=lambda name: QUANTITIES[name].label,
            key="quantity",
            label_visibility="collapsed",
        )
        quantity = QUANTITIES[field or "temperature"]
        if motes is None:
            if live.latest.error is not None:
                states.panel_failed(live.latest.error, "floor")
            return quantity
        with st.container(key="floor", height=430, border=False):
            _draw(
                charts.floor_plan(motes, building.unheard(motes, live.motes.value or ()), quantity, theme.ink()),
                "plan",
                height="stretch",
                alt=f"Floor plan of the motes, coloured by {quantity.label.lower()}; the table has the same values.",
            )
        _, real = charts.placed(motes)
        place = "" if real else " No floor plan is known: motes stand in order of their number."
        if live.motes.error is not None:
            place = " The positions are not available now: motes stand in order of their number."
        silence = building.duration_text(building.STALE_SECONDS)
        st.caption(f"▲ impossible value · ◌ silent for over {silence}, or no value (dotted: never reported).{place}")
        return quantity


def _draw(drawing: charts.Drawing, key: str, *, alt: str, height: Literal["content", "stretch"] = "content") -> None:
    spec = {**drawing.spec, "datasets": {charts.ROWS: drawing.rows}}
    st.vega_lite_chart(None, spec, width="stretch", height=height, key=key, alt=alt)


def _day(hourly: Part[tuple[Aggregate, ...]], quantity: Quantity) -> None:
    with st.container(border=True, height="stretch"):
        st.subheader(f"{quantity.label} over 24 hours", anchor=False)
        if hourly.error is not None:
            states.panel_failed(hourly.error, "day")
            return
        frame = building.aggregate_frame(hourly.value or (), quantity)
        if frame.is_empty():
            states.panel_empty("No hourly aggregates yet. The platform makes them every hour while `sieis up` runs.")
            return
        _draw(
            charts.building_day(frame, quantity, theme.ink()),
            "day",
            alt=f"Hourly mean, median, minimum and maximum of {quantity.label.lower()} of the building.",
        )
        first, last = frame["period_start"][0], frame["period_start"][-1] + dt.timedelta(hours=1)
        st.caption(
            f"Whole building, {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC. Line: mean, dashed: median, "
            f"band: minimum to maximum of plausible values. {frame['record_count'].sum():,} readings, "
            f"{frame['out_of_range_count'].sum():,} impossible values left out."
        )


def _anomalies(derived: Derived) -> None:
    with st.container(border=True, height="stretch"):
        st.subheader("Anomalies", anchor=False)
        if derived.anomalies.error is not None:
            states.panel_failed(derived.anomalies.error, "anomalies")
            return
        found = derived.anomalies.value
        if found is None or found.model is None:
            states.panel_empty(
                "No model has been trained yet. It trains on the archive while `sieis up` runs, or with `make demo`."
            )
            return
        model = found.model
        facts = [f"Model {model.name} version {model.version}"]
        if model.trained_at is not None:
            facts.append(f"trained {model.trained_at.astimezone(dt.UTC):%Y-%m-%d %H:%M} UTC")
        if model.threshold is not None:
            facts.append(f"threshold {model.threshold:.3f}")
        st.caption(" · ".join(facts))
        if not found.anomalies:
            states.panel_empty("Nothing strange in the readings this model has scored.")
            return
        episodes = building.episodes(found.anomalies)
        _draw(charts.anomaly_timeline(episodes, theme.ink()), "timeline", alt="Episodes of anomalies by mote and time.")
        st.dataframe(
            episodes.select(
                "mote_id",
                "start",
                pl.col("end") - pl.col("start"),
                "count",
                "score",
                "temperature",
                "humidity",
                "light",
                "voltage",
            ).with_columns(pl.col("end").dt.total_minutes()),
            hide_index=True,
            height=210,
            key="episodes",
            column_config={
                "mote_id": st.column_config.NumberColumn("Mote", format="%d", width=55, pinned=True),
                "start": st.column_config.DatetimeColumn("From (UTC)", format="MM-DD HH:mm", timezone="UTC", width=105),
                "end": st.column_config.NumberColumn("Length, min", format="%d", width=85),
                "count": st.column_config.NumberColumn("Anomalies", format="localized", width=80),
                "score": st.column_config.NumberColumn("Peak score", format="%.3f", width=85),
                **_value_columns(" at peak"),
            },
            alt="Episodes of anomalies, newest first.",
        )
        more = " (the newest of more)" if found.truncated else ""
        st.caption(
            f"Anomalous readings: {len(found.anomalies):,}{more}. Episodes: {episodes.height:,}, newest first. "
            "The last seven days scored."
        )


def _value_columns(suffix: str = "") -> dict[str, ColumnConfig]:
    return {
        q.field: st.column_config.NumberColumn(
            f"{q.label}{suffix}, {q.unit}" if suffix else q.column,
            format=f"%.{q.digits}f",
            width=None if suffix else 78,
        )
        for q in QUANTITIES.values()
    }


def _table(live: Live, motes: pl.DataFrame | None) -> None:
    with st.container(border=True, height="stretch"):
        st.subheader("Latest readings", anchor=False)
        if motes is None:
            if live.latest.error is not None:
                states.panel_failed(live.latest.error, "table")
            return
        st.dataframe(
            motes.select("mote_id", "flags", *QUANTITIES, "age_seconds", "timestamp"),
            hide_index=True,
            height=312,
            key="latest",
            column_config={
                "mote_id": st.column_config.NumberColumn("Mote", format="%d", width=55, pinned=True),
                "flags": st.column_config.MultiselectColumn(
                    "Flags",
                    width=165,
                    options=[State.IMPOSSIBLE, State.SILENT, State.LOW_BATTERY],
                    color=["orange", "gray", "violet"],
                    help=f"Impossible value: outside what is physically possible indoors. Silent: no reading for over "
                    f"{building.duration_text(building.STALE_SECONDS)}. Low battery: under {LOW_BATTERY_VOLTS} V.",
                ),
                **_value_columns(),
                "age_seconds": st.column_config.NumberColumn("Age, s", format="%d", width=65),
                "timestamp": st.column_config.DatetimeColumn(
                    "Measured (UTC)", format="YYYY-MM-DD HH:mm:ss", timezone="UTC"
                ),
            },
            alt="The newest reading of every mote.",
        )
        flagged = motes.filter(pl.col("flags").list.len() > 0).height
        st.caption(
            f"Motes that have reported: {motes.height}, flagged: {flagged}. Click a column to sort; times are UTC."
        )


def _footer(health: Health | None, taken_at: dt.datetime) -> None:
    parts = []
    if health is not None:
        parts = [
            f"{name.replace('_', ' ')} {component.status}"
            + (f" ({component.detail})" if component.status != "ok" and component.detail else "")
            for name, component in health.components.items()
        ]
        parts.insert(0, f"SIEIS {health.version}".strip())
    st.caption(" · ".join([*parts, f"refreshed {taken_at:%H:%M:%S} UTC"]))
