"""The figures of several pipelines as one table."""

from openhart.evaluation.result import Result


def pipelines_table(result: Result) -> str:
    """The figures as a Markdown table with one row per model and intervals in brackets."""
    cells: dict[str, dict[str, str]] = {}
    columns: dict[str, None] = {}
    for model in result.details["pipelines"]:
        row = cells.setdefault(model, {})
        for figure in result.figures:
            if figure.name.startswith(f"{model}, "):
                column = figure.label.removeprefix(f"{model}, ")
                columns[column] = None
                row[column] = f"{figure.value:.4g}"
                if figure.interval is not None:
                    row[column] += f" ({figure.interval[0]:.4g} – {figure.interval[1]:.4g})"
    lines = [["model", *columns], ["---"] * (len(columns) + 1)]
    lines += [[model, *(row.get(column, "–") for column in columns)] for model, row in cells.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
