"""The metrics of a run, one line per logged step in ``metrics.jsonl``, and their curves."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openhart.atomic import written_whole
from openhart.errors import UserError, require

FILE = "metrics.jsonl"
PANELS = {  # title: beginnings of the metrics' names
    "loss": (
        "loss",
        "cross_entropy",
        "diffusion",
        "embedding/",
        "likeness",
        "quantization",
        "kl",
        "discriminator",
    ),
    "loss of each scale": ("cross_entropy/",),
    "PSNR": ("psnr",),
    "fraction of codes used, each scale": ("codes_used/", "codes_alive"),
    "perplexity of each scale": ("perplexity/",),
    "gradient norm": ("gradient_norm",),
    "learning rate": ("learning_rate",),
    "samples per second": ("samples_per_second",),
    "fraction of the machine's matmul rate": ("mfu",),
    "peak memory, GiB": ("peak_gib",),
}
SMOOTHED_OVER = 40


def append(output: Path, step: int, values: dict[str, float]) -> None:
    """Append the metrics of a step."""
    with (output / FILE).open("a") as file:
        file.write(json.dumps({"step": step} | values) + "\n")


def forget_from(output: Path, step: int) -> None:
    """Remove the metrics from ``step`` on, since the resumed run measures them again."""
    path = output / FILE
    if not path.exists():
        return
    kept = [line for line, metrics in _lines(path) if metrics["step"] < step]
    with written_whole(path) as whole:
        whole.write_text("".join(line + "\n" for line in kept))


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The valid lines, as text and as metrics; the last line of a killed run may be incomplete."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            metrics = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(metrics, dict) and type(metrics.get("step")) is int:
            yield line, {name: value for name, value in metrics.items() if type(value) in (int, float)}


def training_seconds(output: Path, samples: int) -> float:
    """Seconds that the logged steps of a run took, without saving and sample images.

    Args:
        output: folder of the run.
        samples: per step, of all processes.

    Raises:
        UserError: if the run has logged nothing.
    """
    seconds, done = 0.0, 0
    for line in read(output):
        steps, done = line["step"] + 1 - done, line["step"] + 1
        seconds += steps * samples / line["samples_per_second"]
    return seconds


def read(output: Path) -> list[dict[str, Any]]:
    """The metrics of a run, step by step.

    Raises:
        UserError: if there are none.
    """
    path = output / FILE
    if not path.is_file():
        raise UserError(f"{output} has no {FILE}: no run has logged anything there")
    lines = [metrics for _, metrics in _lines(path)]
    if not lines:
        raise UserError(f"{path} is empty: the run has not logged a step yet")
    return lines


def plot(output: Path, path: Path) -> None:
    """Draw the curves of a run, one panel per kind of metric.

    Args:
        output: the run's folder.
        path: of the image.

    Raises:
        UserError: if nothing was logged, or if matplotlib is missing.
    """
    history = read(output)
    require("matplotlib", extra="train")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = sorted({name for line in history for name in line} - {"step"})
    panels = {
        title: [name for name in names if _belongs(name, beginnings)] for title, beginnings in PANELS.items()
    }
    panels = {title: chosen for title, chosen in panels.items() if chosen}
    rows = (len(panels) + 1) // 2
    figure, grid = pyplot.subplots(rows, 2, figsize=(11, 2.8 * rows), squeeze=False, layout="constrained")
    for axes, (title, chosen) in zip(grid.flat, panels.items(), strict=False):
        shades = pyplot.get_cmap("viridis" if len(chosen) > 4 else "tab10")
        for place, name in enumerate(chosen):
            points = [(line["step"], line[name]) for line in history if name in line]
            colour = shades(place / len(chosen)) if len(chosen) > 4 else shades(place)
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, color=colour, alpha=0.25, lw=0.8)
            axes.plot(steps, _smooth(values), color=colour, lw=1.5, label=name.split("/")[-1])
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step", fontsize=8)
        if len(chosen) > 1:
            axes.legend(fontsize=7, ncols=2)
    for axes in list(grid.flat)[len(panels) :]:
        axes.remove()
    with written_whole(path) as whole:
        figure.savefig(whole, dpi=110)
    pyplot.close(figure)


def _belongs(name: str, beginnings: tuple[str, ...]) -> bool:
    return any(
        name.startswith(beginning) if beginning.endswith("/") else name == beginning
        for beginning in beginnings
    )


def _smooth(values: tuple[float, ...]) -> list[float]:
    """A running mean, over a fortieth of the curve."""
    share = 1 / max(len(values) / SMOOTHED_OVER, 1)
    mean, smoothed = values[0], []
    for value in values:
        mean += share * (value - mean)
        smoothed.append(mean)
    return smoothed
