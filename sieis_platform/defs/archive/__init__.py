"""The archive as an asset, and consistent views of it."""
