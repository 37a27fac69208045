"""The stream, which others write: external assets."""
