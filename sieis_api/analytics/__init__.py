"""What is derived from the readings: aggregates and anomalies, out of the marts."""
