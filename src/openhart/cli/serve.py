"""``openhart serve``: a server for the OpenAI Images protocol.

Heavy libraries are imported after the options have been checked.
"""

import os
from argparse import ArgumentParser, Namespace
from functools import partial
from typing import TYPE_CHECKING, Any

from openhart.cli.computing import add_computing, check_computing, computation, load_pipeline
from openhart.cli.options import MANY, UsageError, add_command, add_quiet, named, positive, whole
from openhart.errors import require
from openhart.provenance import model_hash

if TYPE_CHECKING:
    from openhart.serving.service import ServiceSettings

PORTS = 65535
KEY_VARIABLE = "OPENHART_API_KEY"


def add_serve(commands: Any) -> None:
    """Add the options."""
    parser = add_command(
        commands,
        "serve",
        "Serve a model over HTTP with the OpenAI Images protocol, and a web page.",
        "openhart serve --port 8000",
    )
    add_computing(parser)
    _add_network(parser)
    _add_limits(parser)
    _add_images(parser)
    _add_ray(parser)
    add_quiet(parser)
    parser.set_defaults(run=serve)


def _add_network(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--host", type=named, default="127.0.0.1", metavar="HOST",
        help="Address to listen on (default: 127.0.0.1, which only this machine can reach).",
    )  # fmt: skip
    add(
        "--port", type=whole(0, PORTS), default=8000, metavar="PORT",
        help="Port to listen on; 0 chooses a free one (default: 8000).",
    )  # fmt: skip
    add(
        "--api-key", type=named, action="append", metavar="KEY",
        help=f"API key that clients must send; may be given several times. The variable {KEY_VARIABLE} holds "
        "one or several keys, separated by commas, and does not show them to other users of this machine.",
    )  # fmt: skip
    add(
        "--served-model-name", type=named, nargs="+", metavar="NAME",
        help="Names of the model in the protocol, for clients that have a name built in "
        "(default: openhart).",
    )  # fmt: skip
    add(
        "--cors-origin", type=named, action="append", metavar="ORIGIN",
        help="Origin of a web page that may use the server, such as https://example.org; may be given "
        "several times. Pages of other sites are refused.",
    )  # fmt: skip
    add("--no-page", action="store_true", help="Do not serve the web page.")


def _add_limits(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--max-queue", type=whole(1, MANY), default=64, metavar="N",
        help="Number of images that may wait; further requests are refused at once (default: 64).",
    )  # fmt: skip
    add(
        "--max-batch", type=whole(1, MANY), default=8, metavar="N",
        help="Number of images that are generated together; 1 turns batching off (default: 8).",
    )  # fmt: skip
    add(
        "--max-per-key", type=whole(1, MANY), metavar="N",
        help="Number of images that may wait or run per API key (default: no limit).",
    )  # fmt: skip
    add(
        "--max-pixels", type=whole(1, 10**8), metavar="N",
        help="Number of pixels per image (default: as many as the model's own size has).",
    )  # fmt: skip
    add(
        "--drain-seconds", type=positive, default=60.0, metavar="SECONDS",
        help="Time in seconds for finishing accepted requests after SIGTERM or Ctrl-C (default: 60).",
    )  # fmt: skip


def _add_images(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--size-policy", choices=["exact", "resize"], default="exact",
        help="What happens to sizes that the model does not generate: exact refuses them, resize generates "
        "the nearest size and resizes the image (default: exact).",
    )  # fmt: skip
    add(
        "--safety", type=named, metavar="MODULE:NAME",
        help="Python function of a prompt and an image that is called before and after generation and "
        "returns a true value to refuse a request (default: nothing is checked).",
    )  # fmt: skip
    add(
        "--no-metadata", action="store_true",
        help="Do not write prompt, seed and settings into the images.",
    )  # fmt: skip


def _add_ray(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--ray", action="store_true",
        help="Serve by replicas on Ray Serve, on this machine, until SIGINT or SIGTERM.",
    )  # fmt: skip
    add(
        "--ray-address", type=named, metavar="ADDRESS",
        help="Deploy to a running Ray cluster, such as auto for that of this machine, and end; the same "
        "command again replaces the replicas one after the other.",
    )  # fmt: skip
    add(
        "--min-replicas", type=whole(1, MANY), default=1, metavar="N",
        help="Number of replicas that always run, on Ray (default: 1).",
    )  # fmt: skip
    add(
        "--max-replicas", type=whole(1, MANY), metavar="N",
        help="Number of replicas under load, on Ray (default: as many as always run).",
    )  # fmt: skip
    add(
        "--cpus-per-replica", type=whole(1, MANY), default=2, metavar="N",
        help="Number of processor cores per replica, on Ray (default: 2).",
    )  # fmt: skip
    add(
        "--gpus-per-replica", type=positive, default=0.0, metavar="N",
        help="Number of GPUs per replica, on Ray; 0.5 lets two replicas share one (default: none).",
    )  # fmt: skip


def serve(options: Namespace) -> None:
    """Serve until SIGINT or SIGTERM."""
    check_computing(options)
    require("starlette", "uvicorn", "prometheus_client", extra="serve")
    keys = [*(options.api_key or []), *filter(None, os.environ.get(KEY_VARIABLE, "").split(","))]
    if not all(key.isascii() and key.isprintable() and " " not in key for key in keys):
        raise UsageError("an API key must consist of ASCII characters without spaces")
    from openhart.serving.checkers import load_checker
    from openhart.serving.engine import Limits
    from openhart.serving.server import Address
    from openhart.serving.server import serve as serve_model
    from openhart.serving.service import ServiceSettings

    settings = ServiceSettings(
        keys=tuple(keys),
        names=tuple(options.served_model_name or ["openhart"]),
        limits=Limits(options.max_queue, options.max_batch, options.max_per_key),
        resize=options.size_policy == "resize",
        metadata=not options.no_metadata,
        checker=load_checker(options.safety) if options.safety else None,
        cors_origins=tuple(options.cors_origin or []),
        page=not options.no_page,
    )
    if options.ray or options.ray_address:
        _serve_on_ray(options, settings)
        return
    address = Address(options.host, options.port)
    serve_model(lambda: _load(options), settings, address, options.drain_seconds, options.quiet)


def _serve_on_ray(options: Namespace, settings: "ServiceSettings") -> None:
    most = options.max_replicas or options.min_replicas
    if most < options.min_replicas:
        raise UsageError("--max-replicas must be at least --min-replicas")
    if options.port == 0:
        raise UsageError("--port must be at least 1 on Ray")
    require("ray", extra="ray")
    from openhart.model_files import find_model
    from openhart.serving.ray_app import Scale, application
    from openhart.serving.ray_run import run
    from openhart.serving.server import Address

    find_model(options.model)
    scale = Scale(
        options.min_replicas,
        most,
        options.cpus_per_replica,
        options.gpus_per_replica,
        waiting=options.max_queue,
        drain_seconds=options.drain_seconds,
    )
    make = partial(application, partial(_load, options), settings, scale)
    run(make, scale, Address(options.host, options.port), options.ray_address, options.quiet)


def _load(options: Namespace) -> Any:
    """The model as the service needs it."""
    from openhart.model_files import find_model
    from openhart.serving.model import ServedModel

    return ServedModel(
        load_pipeline(options),
        (options.served_model_name or ["openhart"])[0],
        model_hash(find_model(options.model)),
        options.max_pixels,
        computation(options),
    )
