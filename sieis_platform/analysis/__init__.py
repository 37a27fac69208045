"""Pure functions on Arrow, Polars and DuckDB: aggregates, quality, anomalies. No I/O of their own."""
