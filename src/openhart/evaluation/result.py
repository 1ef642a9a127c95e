"""Results of benchmarks: figures, and everything that determines them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from openhart.atomic import written_whole
from openhart.errors import UserError, reason

FORMAT = 1


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
        name: name of the metric, such as ``FID`` or ``top1``.
        value: the number.
        count: number of samples it was computed from.
        interval: lower and upper end of its 95 % interval, or None if none was computed.
        extractor: the network whose features it was computed from, or None if no network was used.
        rules: every choice that changes the number, such as resizing, rounding, window and averaging.
    """

    name: str
    value: float
    count: int
    interval: tuple[float, float] | None = None
    extractor: str | None = None
    rules: Mapping[str, str | int | float | bool] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Name with sample count, such as ``FID@5k``."""
        thousands, rest = divmod(self.count, 1000)
        return f"{self.name}@{thousands}k" if thousands and not rest else f"{self.name}@{self.count}"


@dataclass(frozen=True)
class Result:
    """The figures of one run of a benchmark.

    Attributes:
        benchmark: name of the benchmark.
        figures: the numbers.
        made_by: what was measured and how: model, data, seeds, sampling settings, versions.
        details: further results of the benchmark.
    """

    benchmark: str
    figures: tuple[Figure, ...]
    made_by: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    def figure(self, name: str) -> Figure:
        """The figure with this name.

        Raises:
            UserError: there is no such figure.
        """
        for figure in self.figures:
            if figure.name == name:
                return figure
        raise UserError(
            f"{self.benchmark} has no figure {name}: it has {', '.join(f.name for f in self.figures)}"
        )

    def to_dict(self) -> dict[str, Any]:
        """The result in the form in which it is stored as JSON."""
        figures = [{"label": figure.label, **asdict(figure)} for figure in self.figures]
        return {"format": FORMAT, **asdict(self), "figures": figures}


def write_result(result: Result, path: Path) -> None:
    """Write a result as JSON; the file appears only when it is complete."""
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(result.to_dict(), indent=2) + "\n", encoding="utf-8")


def read_result(path: Path) -> Result:
    """Read what :func:`write_result` wrote.

    Raises:
        UserError: the file does not exist or does not contain a result.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        figures = tuple(_figure(entry) for entry in stored["figures"])
        return Result(stored["benchmark"], figures, stored["made_by"], stored["details"])
    except FileNotFoundError as error:
        raise UserError(f"there is no result {path}: give a file that openhart evaluate wrote") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a result of openhart evaluate: {reason(error)}") from error


def _figure(entry: Mapping[str, Any]) -> Figure:
    values = {key: value for key, value in entry.items() if key != "label"}
    interval = values.pop("interval")
    return Figure(**values, interval=None if interval is None else (interval[0], interval[1]))


def check_comparable(figures: Sequence[Figure]) -> None:
    """Refuse to compare figures that were computed differently.

    Raises:
        UserError: the figures differ in name, sample count, extractor or rules.
    """
    first = figures[0]
    for other in figures[1:]:
        for what in ("name", "count", "extractor"):
            mine, its = getattr(first, what), getattr(other, what)
            if mine != its:
                raise UserError(
                    f"{first.label} and {other.label} cannot be compared: {what} {mine} and {its}"
                )
        for rule in sorted({*first.rules, *other.rules}):
            mine, its = first.rules.get(rule), other.rules.get(rule)
            if mine != its:
                raise UserError(
                    f"{first.label} cannot be compared: {rule} is {mine} in one, {its} in another"
                )
