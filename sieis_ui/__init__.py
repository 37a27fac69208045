"""The dashboard: a client of the API and of nothing else."""
