"""``openhart evaluate arena``: a page on which people compare images of several models."""

from argparse import Namespace
from typing import Any

from openhart.cli.evaluate.common import add_kind
from openhart.cli.options import LARGEST_SEED, named, place, whole
from openhart.errors import require

PORTS = 65535


def add_arena(kinds: Any) -> None:
    """Add the options."""
    parser = add_kind(
        kinds, "arena", serve_arena,
        "Serve a web page on which people compare images of several models without seeing the models' names.",
        "hart/ sdxl/ -o votes.sqlite",
    )  # fmt: skip
    add = parser.add_argument
    add(
        "folders", type=place, nargs="+", metavar="FOLDER",
        help="One folder of images per model, with the same file names in all folders.",
    )  # fmt: skip
    add(
        "-o", "--output", type=place, required=True, metavar="SQLITE",
        help="File of the votes; an existing one is continued.",
    )  # fmt: skip
    add(
        "--host", type=named, default="127.0.0.1", metavar="HOST",
        help="Address to listen on (default: 127.0.0.1, which only this machine can reach).",
    )  # fmt: skip
    add(
        "--port", type=whole(0, PORTS), default=8080, metavar="PORT",
        help="Port to listen on; 0 chooses a free one (default: 8080).",
    )  # fmt: skip
    add(
        "--seed", type=whole(0, LARGEST_SEED), metavar="N",
        help="Seed of the order of the images and of their sides (default: a random seed).",
    )  # fmt: skip


def serve_arena(options: Namespace) -> None:
    """Serve the page until it is interrupted."""
    require("starlette", "uvicorn", extra="eval")
    from openhart.evaluation.arena.app import Arena, arena_app
    from openhart.evaluation.arena.entries import find_entries
    from openhart.evaluation.arena.serve import serve
    from openhart.evaluation.arena.votes import VoteFile

    entries = find_entries(options.folders)
    votes = VoteFile.open(options.output, entries.folders, entries.digests)
    serve(arena_app(Arena(entries, votes, options.seed)), options.host, options.port, options.quiet)
