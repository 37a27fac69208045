"""Swagger UI at /docs, without the internet: its script and style come with the package fastapi-offline.

Belongs here: the page, its files and what it may do. Not here: what it shows (/openapi.json).
"""

import base64
import hashlib
import re
from collections.abc import Mapping
from importlib import resources
from typing import Final

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import FileResponse, HTMLResponse

_ADDRESS: Final = "/docs"
_SCRIPT: Final = "swagger-ui-bundle.js"
_STYLE: Final = "swagger-ui.css"
# 1.7 MB that only another version of the package changes.
_KEEP: Final[Mapping[str, str]] = {"Cache-Control": "private, max-age=3600"}


def add_docs_page(app: FastAPI) -> None:
    """Add /docs and its two files to `app`; nothing on the page comes from, or may go to, another place.

    A script of others on it could ask the API in the name of whoever is signed in.
    """
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="SIEIS API",
        swagger_js_url=f"{_ADDRESS}/{_SCRIPT}",
        swagger_css_url=f"{_ADDRESS}/{_STYLE}",
        swagger_favicon_url="data:,",
        swagger_ui_parameters={"tryItOutEnabled": True, "displayRequestDuration": True, "defaultModelsExpandDepth": 0},
    )
    inline = re.findall(r"<script>(.*?)</script>", bytes(page.body).decode(), re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in inline)
    hashes = " ".join(f"'sha256-{digest}'" for digest in digests)
    page.headers["Content-Security-Policy"] = (
        f"default-src 'none'; connect-src 'self'; img-src 'self' data:; script-src 'self' {hashes}; "
        "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'"
    )
    # Installed by wheel, so that there is a file to send.
    files = {name: str(resources.files("fastapi_offline") / "static" / name) for name in (_SCRIPT, _STYLE)}

    @app.get(_ADDRESS, include_in_schema=False)
    async def docs() -> HTMLResponse:
        return page

    @app.get(f"{_ADDRESS}/{_SCRIPT}", include_in_schema=False)
    async def script() -> FileResponse:
        return FileResponse(files[_SCRIPT], headers=dict(_KEEP), media_type="text/javascript")

    @app.get(f"{_ADDRESS}/{_STYLE}", include_in_schema=False)
    async def style() -> FileResponse:
        return FileResponse(files[_STYLE], headers=dict(_KEEP), media_type="text/css")
