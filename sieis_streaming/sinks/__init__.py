"""Where consumed readings go: one sink a store, each with its own consumer group."""
