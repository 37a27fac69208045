"""The stores: hot (last days), archive (every reading, Delta), marts (derived tables). Only these know a query language."""
