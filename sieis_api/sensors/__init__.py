"""Readings of the sensors, live and past."""
