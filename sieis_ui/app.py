"""The dashboard: `streamlit run sieis_ui/app.py` (or `sieis up`). Assembles the pages and nothing else.

Belongs here: page list, title, icon. Not here: what a page shows.
"""

from pathlib import Path

import streamlit as st

from sieis_ui import theme
from sieis_ui.app_pages import overview

# A file of ours: a `:material/…:` page icon would be fetched from another host.
_ICON = Path(__file__).parent / "assets" / "icon.svg"

st.set_page_config(page_title="SIEIS", page_icon=_ICON, layout="wide")
theme.apply_css()
st.navigation(
    [
        st.Page(
            overview.page,
            title="Overview",
            icon=":material/space_dashboard:",
            default=True,
        )
    ],
    position="top",
).run()
