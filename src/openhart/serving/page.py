"""The web page of the service: static files of this package, which use the public protocol alone."""

import mimetypes
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from openhart.serving.problems import ProtocolError

FOLDER = files("openhart.serving") / "page"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}


def page_routes() -> list[Route]:
    """The page at ``/`` and its files at ``/page/NAME``."""
    return [Route("/", page_file), Route("/page/{name}", page_file)]


async def page_file(request: Request) -> Response:
    """One of the page's files."""
    name = request.path_params.get("name", "index.html")
    if name not in {each.name for each in FOLDER.iterdir()}:
        raise ProtocolError(404, "there is no such file")
    media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return Response((FOLDER / name).read_bytes(), media_type=media_type, headers=HEADERS)
