"""Runs the application until SIGINT or SIGTERM, and finishes accepted requests before it ends."""

import asyncio
import logging
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from openhart.errors import UserError, reason
from openhart.serving.app import create_app
from openhart.serving.service import Service, ServiceSettings

if TYPE_CHECKING:
    from openhart.serving.model import ServedModel

CLOSING_SECONDS = 5  # for slow readers, after the last image is made


@dataclass(frozen=True)
class Address:
    """Where the service listens.

    Attributes:
        host: name or address.
        port: port; 0 chooses a free one.
    """

    host: str = "127.0.0.1"
    port: int = 8000


def serve(
    load: "Callable[[], ServedModel]",
    settings: ServiceSettings,
    address: Address,
    drain_seconds: float = 60.0,
    quiet: bool = False,
) -> None:
    """Serve a model until SIGINT or SIGTERM; then accept nothing, finish what was accepted, and return.

    Args:
        load: loads the model, after the service has begun to listen.
        settings: of the service.
        address: where it listens.
        drain_seconds: time for accepted requests after a signal.
        quiet: print nothing but errors.

    Raises:
        UserError: the address cannot be used, or the model cannot be loaded.
    """
    logging.basicConfig(
        format="%(asctime)s %(message)s", level=logging.WARNING if quiet else logging.INFO, stream=sys.stderr
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    with _listener(address) as listener:
        shown = f"[{address.host}]" if ":" in address.host else address.host
        url = f"http://{shown}:{listener.getsockname()[1]}"
        if not quiet:
            print(_announcement(url, settings), flush=True)
        service = Service(load, settings)
        server = DrainingServer(service, drain_seconds, url, quiet)
        server.run(sockets=[listener])
    if isinstance(service.failure, Exception):
        raise service.failure


def _listener(address: Address) -> socket.socket:
    try:
        family, *_, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(place[:2], family=family)
    except OSError as error:
        message = f"cannot listen on {address.host}, port {address.port}: {reason(error)}"
        raise UserError(message) from error


def _announcement(url: str, settings: ServiceSettings) -> str:
    key = "an API key is needed" if settings.keys else "no API key is needed"
    checked = "the safety checker is on" if settings.checker else "no safety checker is active"
    return f"OpenHART listens at {url}/ ({key}; {checked}; Ctrl-C ends it). Loading the model …"


class DrainingServer(uvicorn.Server):
    """uvicorn's server, which after a signal first lets the engine finish.

    Args:
        service: the service.
        drain_seconds: time for accepted requests.
        url: address for the line that states that the service is ready.
        quiet: do not print this line.
    """

    def __init__(self, service: Service, drain_seconds: float, url: str, quiet: bool) -> None:
        super().__init__(
            uvicorn.Config(
                create_app(service), log_config=None, access_log=False, server_header=False, ws="none",
                timeout_graceful_shutdown=CLOSING_SECONDS,
            )
        )  # fmt: skip
        self.service = service
        self.drain_seconds = drain_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None
        service.on_failure = self._end
        if not quiet:
            service.on_ready = lambda: print(f"OpenHART is ready: {url}/", flush=True)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal."""
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain at the first signal; end at once at the second."""
        if self._draining is not None or self._loop is None or self.service.engine is None:
            self._end()
            self.force_exit = self._draining is not None
        else:
            self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain_and_end())

    async def _drain_and_end(self) -> None:
        assert self.service.engine is not None
        await self.service.engine.drain(self.drain_seconds)
        await self.service.engine.stop()
        self._end()

    def _end(self) -> None:
        self.should_exit = True
