"""The anomaly model and what it flags."""
