"""The table of sampling settings in ``docs/generation.md``, made from their declarations.

``python -m openhart.generation.table docs/generation.md`` writes it between its two markers.
"""

import dataclasses
import sys
from pathlib import Path

from openhart.generation.settings import SAMPLING, SamplingSettings

BEGIN, END = "<!-- sampling settings: begin -->", "<!-- sampling settings: end -->"


def settings_table() -> str:
    """A Markdown table with one row per sampling setting: name, default, range and meaning."""
    rows = ["| setting | default | range | meaning |", "| --- | --- | --- | --- |"]
    for field in dataclasses.fields(SamplingSettings):
        declared = SAMPLING[field.name]
        default = "none" if field.default in (None, ()) else f"`{str(field.default).lower()}`"
        rows.append(f"| `{field.name}` | {default} | {declared.range or 'true or false'} | {declared.help} |")
    return "\n".join(rows)


def with_table(page: str) -> str:
    """A page with the present table between its markers."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{settings_table()}\n{END}{after}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_table(path.read_text(encoding="utf-8")), encoding="utf-8")
