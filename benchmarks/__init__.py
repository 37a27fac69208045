"""Measurements with their workload and the floor each must reach; `make bench` runs them. Tests assert no timing."""
