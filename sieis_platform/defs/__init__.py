"""Dagster definitions, one folder a domain; assembled in assembly.py."""

import warnings

# Dagster says at every import which parameters are in beta. Its version is locked, and the tests run what is used.
warnings.filterwarnings("ignore", message=r"(?s).*is currently in (beta|preview), and may have breaking changes")
