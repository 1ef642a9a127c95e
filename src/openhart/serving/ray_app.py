"""The application on Ray Serve: a gateway, and replicas that each hold the model, a queue and batches.

Written for Ray 2.60. Replicas queue by themselves, because Ray Serve's router passes waiting requests on
with a delay of up to half a second.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from openhart.serving.app import create_app
from openhart.serving.files import FileStore, StoredFile, new_name
from openhart.serving.gateway import ACCEPTED, Call, Gateway, ReplicaLostError
from openhart.serving.replica_metrics import REPORT_SECONDS, MetricsBoard
from openhart.serving.request import RefusedError
from openhart.serving.service import Service, ServiceSettings

if TYPE_CHECKING:
    from openhart.serving.model import ServedModel

APP = "openhart"
RETRY_SECONDS = 2.0
HEALTH_SECONDS = 5.0


@dataclass(frozen=True)
class Scale:
    """How many replicas there are, and what each needs.

    Attributes:
        least: replicas that always run.
        most: replicas under load.
        cpus: processor cores per replica; torch uses as many threads.
        gpus: GPUs per replica; a fraction shares one.
        waiting: requests that may wait for a replica, besides those in the replicas' own queues.
        upscale_seconds: how long there must be too many requests before a replica is added.
        downscale_seconds: how long there must be too few before one is removed.
        drain_seconds: time for accepted requests of a replica that is to end.
    """

    least: int = 1
    most: int = 1
    cpus: int = 2
    gpus: float = 0.0
    waiting: int = 64
    upscale_seconds: float = 5.0
    downscale_seconds: float = 120.0
    drain_seconds: float = 60.0


@dataclass(frozen=True)
class Shared:
    """Ray's actors that the gateway and all replicas use.

    Attributes:
        files: of a :class:`FileStore`.
        board: of a :class:`MetricsBoard`.
    """

    files: Any
    board: Any


class SharedFiles(FileStore):
    """A replica's access to the files of all replicas.

    Args:
        actor: Ray's actor of a :class:`FileStore`.
    """

    def __init__(self, actor: Any) -> None:
        super().__init__()
        self._actor = actor

    def add(self, content: bytes, media_type: str, suffix: str) -> str:
        """Store a file for all; returns its name."""
        name = new_name(suffix)
        self._actor.put.remote(name, content, media_type)
        return name


class Replica:
    """The whole application with a model, whose requests come from the gateway.

    Args:
        load: loads the model.
        settings: of the service.
        shared: Ray's actors that all replicas use.
        threads: threads of torch; Ray otherwise limits them to one.
    """

    def __init__(
        self, load: "Callable[[], ServedModel]", settings: ServiceSettings, shared: "Shared", threads: int
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        self.service = Service(load, settings)
        self.service.files = SharedFiles(shared.files)
        self.app = create_app(self.service)
        self._board = shared.board
        self._reporting: asyncio.Task[None] | None = None

    async def reconfigure(self, _: dict[str, Any]) -> None:
        """Load the model and make a first image; Ray Serve calls it before it sends requests, and again when
        the number of replicas changes."""
        if self.service.engine is not None:
            return
        await self.service.open()
        if self.service.failure is not None:
            raise self.service.failure
        self._reporting = asyncio.ensure_future(self._report())

    async def _report(self) -> None:
        name = serve.get_replica_context().replica_id.unique_id
        while True:
            content, _ = self.service.metrics.exposition()
            self._board.put.remote(name, content)
            await asyncio.sleep(REPORT_SECONDS)

    def check_health(self) -> None:
        """Raise an error if the engine has died, so that Ray Serve replaces the replica."""
        engine = self.service.engine
        if engine is not None and not engine.alive and not engine.draining:
            raise RuntimeError("the engine has died")

    async def answer(self, call: Call) -> AsyncIterator[Message]:
        """Yield :data:`ACCEPTED`, then the messages of the application's answer."""
        yield {"type": ACCEPTED}
        messages: asyncio.Queue[Message | None] = asyncio.Queue()
        gone, body = asyncio.Event(), [call.body]

        async def receive() -> Message:
            if body:
                return {"type": "http.request", "body": body.pop(), "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        task = asyncio.ensure_future(self.app(_scope(call), receive, messages.put))
        task.add_done_callback(lambda _: messages.put_nowait(None))
        try:
            while (message := await messages.get()) is not None:
                yield message
            await task
        finally:
            gone.set()
            await asyncio.wait([task], timeout=HEALTH_SECONDS)
            task.cancel()


def _scope(call: Call) -> dict[str, Any]:
    return {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": call.method,
        "scheme": call.scheme, "path": call.path, "raw_path": call.path.encode(), "root_path": "",
        "query_string": call.query, "headers": call.headers, "client": None, "server": None,
    }  # fmt: skip


class Ingress:
    """The gateway as a deployment of Ray Serve.

    Args:
        replicas: handle of the replicas.
        shared: Ray's actors that all replicas use.
    """

    def __init__(self, replicas: Any, shared: "Shared") -> None:
        self._replicas = replicas.options(stream=True)
        self._shared = shared
        self._gateway = Gateway(self._forward, self._file, self._reports)

    async def __call__(self, request: Request) -> Response:
        """Answer one request."""
        return await self._gateway.answer(request)

    async def _file(self, name: str) -> StoredFile | None:
        found: StoredFile | None = await self._shared.files.get.remote(name)
        return found

    async def _reports(self) -> dict[str, bytes]:
        reports: dict[str, bytes] = await self._shared.board.reports.remote()
        return reports

    async def _forward(self, call: Call) -> AsyncIterator[Message]:
        messages = self._replicas.answer.remote(call)
        try:
            async for message in messages:
                yield message
        except BackPressureError as error:
            message = "the queue is full: too many requests wait for a replica; try again later"
            raise RefusedError(message, "queue_full", RETRY_SECONDS) from error
        except RayTaskError:  # the replica is alive and its code failed
            raise
        except RayActorError as error:
            raise ReplicaLostError from error
        except (asyncio.CancelledError, GeneratorExit):
            messages.cancel()
            raise


def application(load: "Callable[[], ServedModel]", settings: ServiceSettings, scale: Scale) -> Any:
    """The application to deploy with ``ray.serve.run``; Ray must be initialised.

    Args:
        load: loads the model in each replica.
        settings: of each replica's service.
        scale: number and needs of the replicas.
    """
    limits = settings.limits
    options = {"get_if_exists": True, "num_cpus": 0, "max_restarts": -1, "lifetime": "detached"}
    files = ray.remote(FileStore).options(name=f"{APP}-files", **options)
    board = ray.remote(MetricsBoard).options(name=f"{APP}-metrics", **options)
    shared = Shared(files.remote(settings.file_seconds, settings.file_bytes), board.remote())
    autoscaling = {
        "min_replicas": scale.least, "max_replicas": scale.most, "target_ongoing_requests": limits.batch,
        "upscale_delay_s": scale.upscale_seconds, "downscale_delay_s": scale.downscale_seconds,
    }  # fmt: skip
    replica = serve.deployment(
        name="Replica",
        max_ongoing_requests=limits.queue + 2 * limits.batch + 16,  # refused requests and /health too
        max_queued_requests=scale.waiting,
        autoscaling_config=autoscaling,
        ray_actor_options={"num_cpus": scale.cpus, "num_gpus": scale.gpus},
        graceful_shutdown_timeout_s=scale.drain_seconds,
        health_check_period_s=HEALTH_SECONDS,
        max_constructor_retry_count=3,
        user_config={},
    )(Replica)
    ingress = serve.deployment(
        name="Ingress", max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=scale.drain_seconds,
    )(Ingress)  # fmt: skip
    return ingress.bind(replica.bind(load, settings, shared, scale.cpus), shared)
