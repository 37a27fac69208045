"""The platform: the reading contract, settings, timeline, stores, analysis, models and Dagster definitions."""
