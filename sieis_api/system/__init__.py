"""The state of the platform itself: health and metrics."""
