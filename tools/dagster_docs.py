"""Renders docs/dagster.md: every asset, check, job, schedule and sensor of the code location, from the definitions.

Belongs here: rendering, a line each, sorted, so that a change shows as a line. Not here: any text about a definition.
"""

from collections.abc import Iterator

import dagster as dg

from sieis_platform.defs.assembly import build_definitions
from sieis_platform.settings import Settings

_HEAD = """# Dagster's definitions

Made by `make docs` (`python -m tools.docs`) from the definitions themselves: what the code location holds with the
default settings. A test fails where it differs."""


def render() -> str:
    """The document."""
    # Built without reading the environment: the document is the same wherever it is made.
    definitions = build_definitions(Settings.model_construct())
    sections = {
        "Assets": _assets(definitions),
        "Checks": _checks(definitions),
        "Jobs": _jobs(definitions),
        "Schedules": _schedules(definitions),
        "Sensors": _sensors(definitions),
    }
    parts = [_HEAD]
    for title, lines in sections.items():
        parts += ["", f"## {title}", "", *sorted(lines)]
    return "\n".join(parts) + "\n"


def _assets(definitions: dg.Definitions) -> Iterator[str]:
    for spec in definitions.resolve_all_asset_specs():
        facts = [f"group {spec.group_name}", "+".join(sorted(spec.kinds))]
        if spec.deps:
            facts.append("from " + ", ".join(sorted(dep.asset_key.to_user_string() for dep in spec.deps)))
        if spec.partitions_def is not None:
            facts.append("by day")
        if spec.automation_condition is not None:
            facts.append(f"automation: {spec.automation_condition.get_label() or 'own condition'}")
        if isinstance(spec.freshness_policy, dg.FreshnessPolicy):
            facts.append("freshness policy")
        yield f"- `{spec.key.to_user_string()}` ({'; '.join(facts)}): {_flat(spec.description)}"


def _checks(definitions: dg.Definitions) -> Iterator[str]:
    for checks in [*(definitions.asset_checks or [])]:
        for spec in checks.check_specs:
            blocking = " (blocking)" if spec.blocking else ""
            yield f"- `{spec.asset_key.to_user_string()}` `{spec.name}`{blocking}: {_flat(spec.description)}"


def _jobs(definitions: dg.Definitions) -> Iterator[str]:
    for job in definitions.resolve_all_job_defs():
        if not job.name.startswith("__"):
            keys = sorted(key.to_user_string() for key in job.asset_layer.executable_asset_keys)
            over = f" ({', '.join(keys)})" if keys else ""
            yield f"- `{job.name}`{over}: {_flat(job.description)}"


def _schedules(definitions: dg.Definitions) -> Iterator[str]:
    for schedule in definitions.get_repository_def().schedule_defs:
        when = f"`{schedule.cron_schedule}`, {schedule.job_name}, {schedule.default_status.value.lower()}"
        yield f"- `{schedule.name}` ({when}): {_flat(schedule.description)}"


def _sensors(definitions: dg.Definitions) -> Iterator[str]:
    for sensor in definitions.get_repository_def().sensor_defs:
        every = f"every {sensor.minimum_interval_seconds} s, {sensor.default_status.value.lower()}"
        yield f"- `{sensor.name}` ({every}): {_flat(sensor.description)}"


def _flat(text: str | None) -> str:
    return " ".join((text or "").split())
