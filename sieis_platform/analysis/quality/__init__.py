"""Expectations about readings and what they become: the small tables that are judged, the suites, verdicts, Data Docs.

Great Expectations takes seconds to import: `suites`, `evaluate` and `docs` load it, `tables` and `verdict` do not.
"""
