"""Dagster definitions, one folder a domain; assembled in assembly.py."""
