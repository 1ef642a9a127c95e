"""Start the application of :mod:`openhart.serving.ray_app` on this machine, or deploy it on a cluster."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray import serve

from openhart.errors import UserError, reason
from openhart.serving.ray_app import APP, Scale
from openhart.serving.server import Address

OBJECT_BYTES = 200 * 2**20  # on this machine alone; answers are small


def missing_resources(scale: Scale, present: Mapping[str, float]) -> str:
    """What the replicas that always run need and is not there, such as ``4 CPU (there are 2)``; else empty.

    Args:
        scale: number and needs of the replicas.
        present: resources by Ray's names, ``CPU`` and ``GPU``.
    """
    needed = {"CPU": scale.least * scale.cpus, "GPU": scale.least * scale.gpus}
    return " and ".join(
        f"{count:g} {name} (there are {present.get(name, 0):g})"
        for name, count in needed.items()
        if count > present.get(name, 0)
    )


def run(
    application_of: Callable[[], Any], scale: Scale, address: Address, cluster: str | None, quiet: bool
) -> None:
    """Deploy on this machine until SIGINT or SIGTERM, or on a running cluster, where the application stays.

    If the application runs on the cluster already, its replicas are replaced one after the other, and each
    finishes what it has accepted.

    Args:
        application_of: makes the application.
        scale: number and needs of the replicas.
        address: host and port on which each node listens.
        cluster: address of a running cluster, such as ``auto``; None starts Ray on this machine.
        quiet: print nothing but errors.

    Raises:
        UserError: there is no such cluster, this machine has too few processors or GPUs, or the application
            does not start.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        own = {"address": "local", "include_dashboard": False, "object_store_memory": OBJECT_BYTES}
        options = own if cluster is None else {"address": cluster}
        ray.init(log_to_driver=False, logging_level=logging.WARNING, namespace=APP, **options)
        _report_missing(missing_resources(scale, ray.cluster_resources()), scale, cluster)
        serve.start(http_options={"host": address.host, "port": address.port, "location": "EveryNode"})
        serve.run(application_of(), name=APP, route_prefix="/")
    except (ConnectionError, RuntimeError, OSError) as error:
        ray.shutdown()
        raise UserError(f"the application could not be started on Ray: {reason(error)}") from error
    if not quiet:
        print(f"OpenHART is ready: http://{address.host}:{address.port}/", flush=True)
    if cluster is not None:
        ray.shutdown()
        return
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
    serve.shutdown()
    ray.shutdown()


def _report_missing(missing: str, scale: Scale, cluster: str | None) -> None:
    """Raise an error on one machine; a cluster may get more nodes, so print what it waits for."""
    if not missing:
        return
    sentence = f"{scale.least} replicas need {missing}"
    if cluster is None:
        ray.shutdown()
        raise UserError(f"{sentence}: lower --min-replicas or --cpus-per-replica")
    print(f"{sentence}: waiting until the cluster has more nodes", file=sys.stderr, flush=True)
