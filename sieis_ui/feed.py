"""What the pages of one dashboard process share: the API client, and answers kept for a moment for all of its viewers.

Belongs here: caching and its lifetimes. Not here: what is asked (snapshot.py) or shown.
"""

import datetime as dt
from typing import Final

import streamlit as st

from sieis_ui.client import ApiClient
from sieis_ui.config import UiSettings
from sieis_ui.snapshot import Derived, Live, take_derived, take_live

#: A hundred open browsers ask the API no oftener than one.
LIVE_SECONDS: Final = 2.0
#: Aggregates and anomalies change when assets run, at most a few times an hour.
DERIVED_SECONDS: Final = 30.0
#: What failed is asked again this soon.
FAILED_SECONDS: Final = 5.0


@st.cache_resource
def settings() -> UiSettings:
    """The dashboard's settings, read once a process."""
    return UiSettings()


@st.cache_resource(on_release=ApiClient.close)
def _client() -> ApiClient:
    return ApiClient(settings())


# The answers are immutable, so all sessions may hold the same object (cache_resource) instead of a copy each.
@st.cache_resource(ttl=LIVE_SECONDS, show_spinner=False)
def live() -> Live:
    """Health, latest readings and motes, at most LIVE_SECONDS old."""
    return take_live(_client())


@st.cache_resource(ttl=DERIVED_SECONDS, show_spinner=False)
def _derived() -> Derived:
    return take_derived(_client())


def derived() -> Derived:
    """Aggregates and anomalies, at most DERIVED_SECONDS old; a failed answer at most FAILED_SECONDS."""
    answer = _derived()
    age = (dt.datetime.now(dt.UTC) - answer.taken_at).total_seconds()
    if answer.failed and age > FAILED_SECONDS:
        _derived.clear()
        return _derived()
    return answer


def ask_again() -> None:
    """Forget the kept answers, so that the next look is a fresh one (the Retry buttons)."""
    live.clear()
    _derived.clear()
