"""What is shown where there is nothing to show: what happened, and what to do about it.

Belongs here: whole-page and panel states. Not here: deciding which one holds.
"""

import streamlit as st

from sieis_ui import feed
from sieis_ui.client import (
    ApiAnswerError,
    ApiError,
    ApiUnauthorisedError,
    ApiUnreachableError,
)


def _plain(text: str) -> str:
    """Text from elsewhere, safe inside Markdown."""
    return "".join(f"\\{char}" if char in r"\`*_{}[]()<>#+-!|~$:" else char for char in text)


def no_api(error: ApiError, refresh_seconds: float) -> None:
    """The whole page where the API cannot be asked."""
    with st.container(border=True, key="state"):
        if isinstance(error, ApiUnauthorisedError):
            st.subheader(":material/key: The API does not let this dashboard in")
            st.markdown(_plain(str(error)))
            st.markdown("Give the dashboard the key that the API was started with, and start it again:")
            st.code(
                "export SIEIS_API_KEY=…   # the same value as the API's\nsieis up",
                language="bash",
            )
        elif isinstance(error, ApiUnreachableError):
            st.subheader(":material/cloud_off: The API is not running")
            st.markdown(_plain(str(error)))
            st.markdown("Start the whole platform, or only the API:")
            st.code(
                "sieis up        # every part together\nsieis api       # the API alone",
                language="bash",
            )
            st.markdown("If it listens elsewhere, say so with `SIEIS_API_URL`.")
        else:
            wrong_program = isinstance(error, ApiAnswerError)
            st.subheader(":material/error: " + ("Unexpected answer" if wrong_program else "The API is in trouble"))
            st.markdown(_plain(str(error)))
            if wrong_program:
                st.markdown("Check `SIEIS_API_URL`, and that the API and the dashboard are of the same version.")
        st.caption(f"This page asks again every {refresh_seconds:g} seconds by itself.")
        st.button(
            "Retry now",
            icon=":material/refresh:",
            on_click=feed.ask_again,
            key="retry-page",
        )


def no_readings() -> None:
    """The whole page of a platform that holds nothing yet."""
    with st.container(border=True, key="state"):
        st.subheader(":material/sensors: No readings yet")
        st.markdown("The platform runs and is empty. Fill it with history, or let it show what it can do:")
        st.code(
            "sieis load FILE   # a file of readings\nmake demo         # history, stream, analysis, start to end",
            language="bash",
        )
        st.markdown("With `sieis up` running, live readings appear here by themselves.")


def panel_failed(error: ApiError, key: str) -> None:
    """A panel whose endpoint failed while the others live on."""
    st.warning(f"Not available now. {_plain(str(error))}", icon=":material/warning:")
    st.button("Retry", icon=":material/refresh:", on_click=feed.ask_again, key=f"retry-{key}")


def panel_empty(text: str) -> None:
    """A panel that works and has nothing to show."""
    st.info(text, icon=":material/hourglass_empty:")
