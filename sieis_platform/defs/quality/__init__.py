"""Expectations about the archive, as asset checks."""
