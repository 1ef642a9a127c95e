"""The page of results in Markdown, with a plot of quality against time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from openhart.atomic import written_whole
from openhart.errors import UserError
from openhart.evaluation.report.pipelines import pipelines_table
from openhart.evaluation.report.published import Row, Table, published_tables
from openhart.evaluation.report.speed import Speed
from openhart.evaluation.result import Figure, Result, read_result
from openhart.reading import parse_any_json, read_text

TICKS = (1, 2, 4, 8, 16, 32)
INTRODUCTION = """# Results

This page is written by `openhart evaluate report` from stored results and must not be edited by hand.
Figures of different sample counts, extractors or rules must not be compared; `openhart evaluate compare`
refuses to. "Published" means that the named source printed the figure, "measured by others" that its readers
measured it, and "measured here" that this program did; the file named there holds everything that made it."""


@dataclass(frozen=True)
class Stored:
    """What was measured here: results of benchmarks and of speed, each with its file."""

    results: Sequence[tuple[Path, Result]]
    speeds: Sequence[tuple[Path, Speed]]


def read_stored(paths: Iterable[Path]) -> Stored:
    """Read results of ``openhart evaluate`` and of ``benchmarks/generation.py``.

    Args:
        paths: JSON files, or folders of them; other JSON files in a folder are passed over.

    Raises:
        UserError: a named file is neither, or a path does not exist.
    """
    results, speeds = [], []
    for path in paths:
        if not path.exists():
            raise UserError(f"there is no file or folder {path}")
        for file in sorted(path.rglob("*.json")) if path.is_dir() else [path]:
            read = _read(file)
            if isinstance(read, Result):
                results.append((file, read))
            elif read is not None:
                speeds.append((file, read))
            elif not path.is_dir():
                raise UserError(f"{file} is neither a result of openhart evaluate nor of a speed benchmark")
    return Stored(results, speeds)


def _read(path: Path) -> Result | Speed | None:
    content = parse_any_json(read_text(path), path)
    if isinstance(content, dict) and {"benchmark", "figures"} <= content.keys():
        return read_result(path)
    try:
        return Speed.model_validate(content)
    except ValidationError:
        return None


def write_report(stored: Stored, output: Path) -> None:
    """Write the page and its plot.

    Args:
        stored: what was measured here.
        output: the Markdown file; the plot is written beside it with the suffix ``.png``.

    Raises:
        OSError: they cannot be written.
    """
    tables = [_with_results(table, stored.results) for table in published_tables()]
    plot = output.with_suffix(".png")
    _plot_quality(tables, plot)
    with written_whole(output) as temporary:
        temporary.write_text(report_page(tables, stored, plot.name), encoding="utf-8")


def report_page(tables: Sequence[Table], stored: Stored, plot: str) -> str:
    """The page's text."""
    parts = [INTRODUCTION, f"![FID on ImageNet against the time of 64 images]({plot})"]
    parts += ["\n".join(_table_lines(table)) for table in tables]
    if stored.results:
        parts.append("## Measured here")
    parts += ["\n".join(_result_lines(path, result)) for path, result in stored.results]
    if stored.speeds:
        parts.append("## Speed, measured here")
    parts += ["\n".join(speed.table(path)) for path, speed in stored.speeds]
    return "\n\n".join(parts) + "\n"


def _with_results(table: Table, results: Sequence[tuple[Path, Result]]) -> Table:
    """The table with rows of the stored results of its benchmark."""
    rows = list(table.rows)
    for path, result in results:
        if table.benchmark is None or not result.benchmark.startswith(table.benchmark):
            continue
        values: dict[str, float | str] = {
            figure.name: _value(figure) for figure in result.figures if figure.name in table.columns
        }
        if values:
            model = str(result.made_by.get("model", path.stem))
            rows.append(Row(model=model, status="measured here", source=f"`{path}`", values=values))
    return table.model_copy(update={"rows": rows})


def _table_lines(table: Table) -> list[str]:
    lines = [f"## {table.title}", "", table.note, ""] if table.note else [f"## {table.title}", ""]
    lines += [_row(["model", *table.columns, "status", "source"]), _row(["---"] * (len(table.columns) + 3))]
    for row in table.rows:
        values = [row.values.get(column, "–") for column in table.columns]
        cells = [f"{value:g}" if isinstance(value, float | int) else value for value in values]
        lines.append(_row([row.model, *cells, row.status, row.source]))
    return lines


def _result_lines(path: Path, result: Result) -> list[str]:
    if result.benchmark == "pipelines":
        return [f"### {result.benchmark} (`{path}`)", "", pipelines_table(result)]
    made = ", ".join(f"{name} {value}" for name, value in result.made_by.items() if _is_plain(value))
    lines = (
        [f"### {result.benchmark} (`{path}`)", "", made, ""]
        if made
        else [f"### {result.benchmark} (`{path}`)", ""]
    )
    lines += [_row(["figure", "value", "95 % interval", "extractor", "rules"]), _row(["---"] * 5)]
    for figure in result.figures:
        interval = "–" if figure.interval is None else " – ".join(f"{end:.4g}" for end in figure.interval)
        rules = ", ".join(f"{name}: {value}" for name, value in figure.rules.items())
        lines.append(
            _row([figure.label, f"{figure.value:.4g}", interval, figure.extractor or "–", rules or "–"])
        )
    return lines


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float) and value != ""


def _value(figure: Figure) -> str:
    return f"{figure.value:.4g} ({figure.label}, {figure.extractor or 'no extractor'})"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _plot_quality(tables: Sequence[Table], path: Path) -> None:
    """FID against seconds of every model that has both, one colour per family."""
    from matplotlib.figure import Figure as Plot

    quality, time = "FID", "seconds for 64 images"
    plot = Plot(figsize=(7, 4.5), layout="constrained")
    axes = plot.add_subplot()
    families: dict[str, list[Row]] = {}
    for row in (row for table in tables for row in table.rows):
        if isinstance(row.values.get(quality), float) and isinstance(row.values.get(time), float):
            family = "HART without residual" if "without residual" in row.model else row.model[:4].strip(" -")
            families.setdefault(family, []).append(row)
    for family, rows in families.items():
        axes.plot(
            [row.values[time] for row in rows], [row.values[quality] for row in rows], "o-", label=family
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(TICKS, [str(tick) for tick in TICKS])
    axes.set_xlabel("seconds for 64 images on one A100, as published")
    axes.set_ylabel("FID on ImageNet, 256 px, as published")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    with written_whole(path) as temporary:
        plot.savefig(temporary, dpi=120)
