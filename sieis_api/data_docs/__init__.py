"""Data Docs: the site of the checks' results, as it was published."""
