"""Features, models and their registry."""
