"""The arena's page as a small web application (Starlette)."""

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from random import Random
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from openhart.evaluation.arena.entries import MEDIA_TYPES, Entries
from openhart.evaluation.arena.schedule import Pair, next_pair
from openhart.evaluation.arena.votes import Choice, Vote, VoteFile

PAGE = {"": "text/html", "arena.js": "text/javascript", "arena.css": "text/css", "icon.svg": "image/svg+xml"}
HEADERS = {"Content-Security-Policy": "default-src 'self'", "Cache-Control": "no-store"}
MOST_SHOWN = 1000


class Ballot(BaseModel):
    """What the page sends after a decision."""

    model_config = ConfigDict(extra="forbid")
    token: str = Field(max_length=64)
    choice: Choice
    rater: str = Field(min_length=1, max_length=64)


@dataclass(frozen=True)
class Shown:
    """A pair that a page shows, under a random token that does not reveal the models."""

    pair: Pair
    since: float


class Arena:
    """The state behind the page: which pairs are shown, and the votes.

    Args:
        entries: the images.
        votes: where votes go.
        seed: of the order and of the sides; None for a new order each time.
    """

    def __init__(self, entries: Entries, votes: VoteFile, seed: int | None = None) -> None:
        self.entries = entries
        self.votes = votes
        self._random = Random(seed)
        self._shown: dict[str, Shown] = {}

    def next(self, rater: str) -> dict[str, Any]:
        """The next pair of a rater as the page needs it, or only the counts when there is none."""
        models = list(self.entries.folders)
        own = [vote for vote in self.votes.all() if vote.rater == rater]
        total = len(self.entries.names) * len(models) * (len(models) - 1) // 2
        counts = {"done": len(own), "total": total}
        pair = next_pair(self.entries.names, models, own, self._random)
        if pair is None:
            return counts
        token = secrets.token_urlsafe(12)
        if len(self._shown) >= MOST_SHOWN:
            self._shown.pop(next(iter(self._shown)))
        self._shown[token] = Shown(pair, time.monotonic())
        return {**counts, "token": token, "prompt": self.entries.prompts.get(pair.image, "")}

    def vote(self, ballot: Ballot) -> bool:
        """Write a vote; false if its pair is not shown, for example since it was voted on already."""
        shown = self._shown.pop(ballot.token, None)
        if shown is None:
            return False
        seconds = round(time.monotonic() - shown.since, 2)
        pair = shown.pair
        self.votes.add(Vote(ballot.rater, pair.image, pair.left, pair.right, ballot.choice, seconds))
        return True

    def image(self, token: str, side: str) -> tuple[str, str] | None:
        """File and media type of one side of a shown pair."""
        shown = self._shown.get(token)
        if shown is None or side not in ("left", "right"):
            return None
        path = self.entries.files[getattr(shown.pair, side)][shown.pair.image]
        return str(path), MEDIA_TYPES[path.suffix.lower()]


def arena_app(arena: Arena) -> Starlette:  # noqa: C901 (four short handlers)
    """The application: the page, its pairs and images, votes and the removal of the last vote."""

    async def pair(request: Request) -> Response:
        rater = request.query_params.get("rater", "")
        if not 1 <= len(rater) <= 64:
            return error(400, "rater must have 1 to 64 characters")
        return JSONResponse(await run_in_threadpool(arena.next, rater), headers=HEADERS)

    async def image(request: Request) -> Response:
        found = arena.image(request.path_params["token"], request.path_params["side"])
        if found is None:
            return error(404, "this pair is no longer shown")
        return FileResponse(found[0], media_type=found[1], headers=HEADERS)

    async def vote(request: Request) -> Response:
        if refused := foreign(request.headers):
            return refused
        try:
            ballot = Ballot.model_validate_json(await request.body())
        except ValidationError:
            return error(400, "a vote has a token, a choice (left, right or tie) and a rater")
        if not await run_in_threadpool(arena.vote, ballot):
            return error(409, "this pair is no longer shown")
        return JSONResponse(await run_in_threadpool(arena.next, ballot.rater), headers=HEADERS)

    async def undo(request: Request) -> Response:
        if refused := foreign(request.headers):
            return refused
        rater = request.query_params.get("rater", "")
        if not await run_in_threadpool(arena.votes.remove_last, rater):
            return error(409, "there is no vote to remove")
        return JSONResponse(await run_in_threadpool(arena.next, rater), headers=HEADERS)

    return Starlette(
        routes=[
            Route("/pair", pair),
            Route("/pair/{token}/{side}", image),
            Route("/vote", vote, methods=["POST"]),
            Route("/undo", undo, methods=["POST"]),
            Route("/", page),
            Route("/{name}", page),
        ]
    )


async def page(request: Request) -> Response:
    """Serve one of the page's files."""
    name = request.path_params.get("name", "")
    if name not in PAGE:
        return error(404, "there is no such page")
    text = (files("openhart.evaluation.arena") / "page" / (name or "index.html")).read_text("utf-8")
    return Response(text, media_type=PAGE[name], headers=HEADERS)


def error(status: int, message: str) -> Response:
    """An answer that says in one sentence what is wrong."""
    return JSONResponse({"error": message}, status_code=status, headers=HEADERS)


def foreign(headers: Mapping[str, str]) -> Response | None:
    """Refuse a request that a page of another site sends in the rater's name."""
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != headers.get("host"):
        return error(403, "votes are accepted only from the arena's own page")
    return None
