"""The state of the service: its settings, the engine once the model is loaded, and the stored files.

The service answers before torch is imported, so this module and those of the protocol import it only in
functions.
"""

import asyncio
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.requests import Request

from openhart.serving.checkers import Checker, SafetyHook
from openhart.serving.engine import Engine, Limits
from openhart.serving.files import FileStore
from openhart.serving.metrics import Metrics
from openhart.serving.problems import ProtocolError
from openhart.serving.request import ImageRequest

if TYPE_CHECKING:
    from openhart.serving.model import ServedModel


@dataclass(frozen=True)
class ServiceSettings:
    """Settings of the service.

    Attributes:
        keys: API keys; without any, no key is needed.
        names: names of the model in the protocol; the first is the one that is listed first.
        limits: of the engine.
        largest_n: images of one request.
        body_bytes: size of a JSON body.
        resize: resize images to a size that the model does not generate, instead of refusing it.
        metadata: write into each image how it was made.
        checker: safety checker, or None.
        cors_origins: origins of web pages that may use the service.
        file_seconds: time for which an image can be fetched by its address.
        file_bytes: size of all such images together.
        page: serve the web page.
    """

    keys: tuple[str, ...] = ()
    names: tuple[str, ...] = ("openhart",)
    limits: Limits = field(default_factory=Limits)
    largest_n: int = 10
    body_bytes: int = 2**20
    resize: bool = False
    metadata: bool = True
    checker: Checker | None = None
    cors_origins: tuple[str, ...] = ()
    file_seconds: float = 3600.0
    file_bytes: int = 256 * 2**20
    page: bool = True


class Service:
    """What the handlers of requests share.

    Args:
        load: loads the model; called in a thread when the service starts.
        settings: the settings.

    Attributes:
        failure: why the model cannot be served, or None.
        on_failure: called when the model cannot be served.
        on_ready: called when the first image has been made.
    """

    def __init__(self, load: "Callable[[], ServedModel]", settings: ServiceSettings | None = None) -> None:
        self.settings = settings or ServiceSettings()
        self.metrics = Metrics()
        self.files = FileStore(self.settings.file_seconds, self.settings.file_bytes)
        self.safety = SafetyHook(self.settings.checker)
        self.engine: Engine | None = None
        self.model: ServedModel | None = None
        self.failure: Exception | None = None
        self.warm = False
        self.on_failure: Callable[[], None] = lambda: None
        self.on_ready: Callable[[], None] = lambda: None
        self._load = load

    async def open(self) -> None:
        """Load the model, start the engine and make a first image."""
        try:
            model = await asyncio.to_thread(self._load)
            engine = Engine(model, self.settings.limits, self.metrics)
            engine.start()
            self.model, self.engine = model, engine
            self.metrics.observe_memory(model.peak_memory)
            prompt = "0" if model.takes_classes else "a red apple"
            first = ImageRequest(prompt, 0, model.size, model.settings("high", {}))
            await engine.submit(first).images()
        except Exception as error:  # noqa: BLE001 — the caller of the server gets it
            self.failure = error.__cause__ if isinstance(error.__cause__, Exception) else error
            self.on_failure()
            return
        self.warm = True
        self.on_ready()

    async def close(self) -> None:
        """Stop the engine."""
        if self.engine is not None:
            await self.engine.stop()

    @property
    def ready(self) -> bool:
        """Whether requests are accepted."""
        return self.warm and self.engine is not None and self.engine.alive and not self.engine.draining

    def parts(self) -> "tuple[Engine, ServedModel]":
        """Engine and model.

        Raises:
            ProtocolError: the model is not loaded yet.
        """
        if self.engine is None or self.model is None:
            headers = {"Retry-After": "5"}
            raise ProtocolError(
                503, "the model is being loaded", "loading", kind="server_error", headers=headers
            )
        return self.engine, self.model

    def authorize(self, request: Request) -> str:
        """The API key of a request; empty if no keys are configured.

        Raises:
            ProtocolError: the key is missing or wrong.
        """
        if not self.settings.keys:
            return ""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        for key in self.settings.keys:
            if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), key.encode()):
                return key
        raise ProtocolError(
            401,
            "this server needs an API key: send it as the header Authorization: Bearer KEY",
            "invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
