"""`/data-docs`: the site that Great Expectations makes of the checks' results, to be looked at in a browser.

Belongs here: addresses, and what its pages may do. Not here: how the site is made (defs/quality) or kept (stores/site).
"""

from http import HTTPStatus
from pathlib import PurePosixPath
from typing import Annotated, Final

from fastapi import APIRouter, Path, Response
from starlette.responses import RedirectResponse

from sieis_api.deps import StateDep
from sieis_api.errors import ApiError, documented
from sieis_platform.settings import DATA_DOCS_ADDRESS
from sieis_platform.stores.site import INDEX, page

router = APIRouter(prefix=DATA_DOCS_ADDRESS, tags=["system"])

_MEDIA: Final = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8"}
#: Pages show what stood in the data. They have no scripts, and if one got in with a value, it would not run.
_POLICY: Final = (
    "default-src 'none'; style-src 'self' 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class PageNotFoundError(ApiError):
    """The Data Docs have no page of that name."""

    status = HTTPStatus.NOT_FOUND
    code = "page_not_found"


@router.get("", include_in_schema=False)
@router.get("/", include_in_schema=False)
async def index() -> Response:
    """To the first page: its links are relative."""
    return RedirectResponse(f"{DATA_DOCS_ADDRESS}/{INDEX}")


@router.get(
    "/{name:path}",
    summary="A page of the Data Docs",
    response_class=Response,
    responses={
        200: {"content": {"text/html": {"schema": {"type": "string"}}}, "description": "The page."},
        **documented(HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE),
    },
)
async def data_docs(
    state: StateDep, name: Annotated[str, Path(description="A page as the site's own links name it.")]
) -> Response:
    """What is expected of the data and what the newest checks found; begin with `index.html`, in a browser.

    Made hourly by Dagster's asset `data_docs`; before that, 404 `page_not_found`. HTML, without the envelope.

    `curl http://127.0.0.1:8000/data-docs/index.html`
    """
    folder = state["settings"].data_docs_path
    found = await state["recent"].run(lambda: page(folder, name))
    if found is None:
        raise PageNotFoundError(
            f"the Data Docs have no such page; {DATA_DOCS_ADDRESS}/{INDEX} lists them once the asset data_docs was made"
        )
    media = _MEDIA.get(PurePosixPath(name).suffix, "application/octet-stream")
    return Response(found, media_type=media, headers={"Content-Security-Policy": _POLICY})
