"""Measurements of all replicas in one text for Prometheus; the label ``replica`` names their source."""

import time
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

REPORT_SECONDS = 2.0
"""How often a replica reports."""


class MetricsBoard:
    """Keeps the last report of each replica, and forgets replicas that report no longer.

    Args:
        seconds: how long a report is kept.
        clock: gives the time in seconds.
    """

    def __init__(
        self, seconds: float = 5 * REPORT_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.seconds = seconds
        self._clock = clock
        self._reports: dict[str, tuple[float, bytes]] = {}

    def put(self, replica: str, exposition: bytes) -> None:
        """Replace a replica's report, in the text format of Prometheus."""
        self._reports[replica] = (self._clock(), exposition)

    def reports(self) -> dict[str, bytes]:
        """The last report of each replica that still reports."""
        oldest = self._clock() - self.seconds
        self._reports = {name: report for name, report in self._reports.items() if report[0] >= oldest}
        return {name: exposition for name, (_, exposition) in self._reports.items()}


class GatewayMetrics:
    """Counters of what the gateway does itself; those of a replica have the same names."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "openhart_requests", "Requests that were answered.", ["endpoint", "status"], registry=registry
        )
        self.refused = Counter(
            "openhart_requests_rejected", "Requests that were refused.", ["reason"], registry=registry
        )
        self.lost = Counter(
            "openhart_replicas_lost", "Times that a replica was lost with a request.", registry=registry
        )

    def exposition(self) -> bytes:
        """All counters in the text format of Prometheus."""
        return generate_latest(self.registry)


class _Labelled(Collector):
    def __init__(self, expositions: Mapping[str, bytes]) -> None:
        self._expositions = expositions

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for replica, exposition in self._expositions.items():
            for family in text_string_to_metric_families(exposition.decode()):
                merged = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                for sample in family.samples:
                    merged.add_sample(sample.name, sample.labels | {"replica": replica}, sample.value)
        return families.values()


def merged(expositions: Mapping[str, bytes]) -> bytes:
    """One text in the format of Prometheus, in which each value has the label ``replica``.

    Args:
        expositions: texts in the same format, by the name of the replica.
    """
    registry = CollectorRegistry()
    registry.register(_Labelled(expositions))
    return generate_latest(registry)
