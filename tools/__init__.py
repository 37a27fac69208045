"""Helpers of the project's own work (make docs, .ci/run); nothing of the product belongs here."""
