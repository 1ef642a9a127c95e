"""Plots of measurements."""

from pathlib import Path
from typing import Any


def plot_phases(report: dict[str, Any], path: Path) -> None:
    """One bar per program, divided into phases, with a mark at the lower bound of its precision."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    entry = report["batches"][0]
    programs = entry["programs"]
    phases = list(programs[0]["phases"] | programs[-1]["phases"])
    scales = [phase for phase in phases if phase.startswith("scale")]
    shades = pyplot.get_cmap("viridis")
    colours: dict[str, Any] = {scale: shades(index / len(scales)) for index, scale in enumerate(scales)}
    colours |= {"residual": "tab:orange", "decoder": "tab:red", "other": "lightgrey"}
    figure, axes = pyplot.subplots(figsize=(9, 0.6 * len(programs) + 1.6), layout="constrained")
    for row, program in enumerate(reversed(programs)):
        measured = dict(program["phases"])
        measured["other"] = max(program["seconds"] - sum(measured.values()), 0.0)
        left = 0.0
        for phase, seconds in measured.items():
            axes.barh(row, seconds, left=left, color=colours[phase], height=0.7)
            left += seconds
        if not program["program"].startswith("fast"):  # these levels omit a part of the operations
            bound = program["seconds"] / program["ratio_to_lower_bound"]
            axes.plot([bound, bound], [row - 0.45, row + 0.45], color="black", lw=2)
        total = f"{program['seconds']:,.0f}" if left >= 1000 else f"{program['seconds']:.3g}"
        axes.text(left, row, f"  {total} s, {program['times_as_fast']:.2f}×", va="center")
    axes.set_yticks(range(len(programs)), [program["program"] for program in reversed(programs)])
    axes.set_xlim(0, 1.18 * max(program["seconds"] for program in programs))
    axes.set_xlabel("seconds per image; black mark: lower bound, FLOPs ÷ measured matmul rate")
    machine = report["machine"]
    place = f"{machine['cores']} CPU cores" if entry["device"] == "cpu" else machine["device"]
    axes.set_title(f"{report['shape']}, batch {entry['batch']}, {place}")
    shown = [scales[0], scales[-1], *(phase for phase in ("residual", "decoder") if phase in phases), "other"]
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=colours[phase]) for phase in shown]
    figure.legend(handles, shown, loc="outside lower center", ncols=len(shown), frameon=False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
