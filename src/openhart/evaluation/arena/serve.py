"""Serving the arena's page until it is interrupted."""

import socket

import uvicorn
from starlette.applications import Starlette

from openhart.errors import UserError, reason


def serve(app: Starlette, host: str, port: int, quiet: bool = False) -> None:
    """Listen until SIGINT or SIGTERM, then finish the requests under way.

    Args:
        app: the application.
        host: address to listen on.
        port: port to listen on; 0 chooses a free one.
        quiet: do not print the address.

    Raises:
        UserError: the address cannot be used.
    """
    config = uvicorn.Config(app, log_level="warning")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family)
    except OSError as error:
        raise UserError(f"cannot listen on {host}, port {port}: {reason(error)}") from error
    with listener:
        if not quiet:
            shown = f"[{host}]" if ":" in host else host
            print(
                f"The arena is open at http://{shown}:{listener.getsockname()[1]}/ (Ctrl-C ends it).",
                flush=True,
            )
        uvicorn.Server(config).run(sockets=[listener])
