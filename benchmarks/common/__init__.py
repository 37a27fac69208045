"""What several benchmarks need. Nothing here has a `run()`: these are no benchmarks."""
