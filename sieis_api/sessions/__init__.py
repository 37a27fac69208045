"""Signing in with a browser: a cookie that stands for the API key for some hours."""
