"""Measurements of the service for Prometheus, in a registry of its own. No label contains a prompt."""

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

SECONDS = (0.01, 0.03, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)
BATCHES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters, gauges and histograms of one service."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"openhart_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, *labels: str, buckets: Iterable[float] = SECONDS) -> Histogram:
            return Histogram(f"openhart_{name}", text, labels, registry=registry, buckets=tuple(buckets))

        self.requests = counter("requests", "Requests that were answered.", "endpoint", "status")
        self.refused = counter("requests_rejected", "Requests that were refused.", "reason")
        self.cancelled = counter("requests_cancelled", "Requests whose client went away.")
        self.images = counter("images", "Images that were generated.")
        self.request_seconds = histogram("request_seconds", "Time of a request.", "endpoint")
        self.queue_seconds = histogram("queue_seconds", "Time that an image waited in the queue.")
        self.first_preview_seconds = histogram("first_preview_seconds", "Time to the first partial image.")
        self.batch_size = histogram("batch_size", "Images per batch.", buckets=BATCHES)
        self.scale_seconds = histogram("scale_seconds", "Time of a scale of a batch.", "scale")

    def observe_engine(self, engine: Any) -> None:
        """Read the lengths of an engine's queue at each scrape."""
        for name, text, attribute in (
            ("images_waiting", "Images that wait.", "waiting"),
            ("images_running", "Images that are being generated.", "running"),
            ("requests_open", "Requests that wait or run.", "open_requests"),
        ):
            gauge = Gauge(f"openhart_{name}", text, registry=self.registry)
            gauge.set_function(partial(getattr, engine, attribute))

    def observe_memory(self, peak: Callable[[], int | None]) -> None:
        """Read the peak memory of the model's device, a function that returns bytes, at each scrape."""
        gauge = Gauge("openhart_peak_memory_bytes", "Peak memory on the device.", registry=self.registry)
        gauge.set_function(lambda: peak() or 0)

    def rejected(self, why: str) -> None:
        """Count a refusal."""
        self.refused.labels(why).inc()

    def batch_began(self, waits: Iterable[float]) -> None:
        """Record the waiting times of the images of a batch, and their number."""
        waits = list(waits)
        self.batch_size.observe(len(waits))
        for seconds in waits:
            self.queue_seconds.observe(seconds)

    def scale_took(self, index: int, seconds: float) -> None:
        """Record the time of a scale."""
        self.scale_seconds.labels(str(index)).observe(seconds)

    def preview_shown(self, first: bool, since: float) -> None:
        """Record the time to a request's first preview."""
        if first:
            self.first_preview_seconds.observe(time.monotonic() - since)

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self.requests.labels(endpoint, str(status)).inc()
        self.request_seconds.labels(endpoint).observe(seconds)

    def exposition(self) -> tuple[bytes, str]:
        """All measurements in the text format of Prometheus, and its media type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
