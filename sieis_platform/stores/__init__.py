"""The stores: hot (last days), archive (every reading), marts (derived tables). Only these know a query language."""
