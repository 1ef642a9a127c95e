"""The tables of sampling settings in the documentation, made from their declarations.

``python -m openhart.generation.table docs/generation.md`` writes one between the two markers of a page.
"""

import dataclasses
import sys
from pathlib import Path

from openhart.generation.masked_settings import MaskedSamplingSettings
from openhart.generation.settings import SamplingSettings

BEGIN, END = "<!-- sampling settings: begin -->", "<!-- sampling settings: end -->"
PAGES: dict[str, type] = {"generation.md": SamplingSettings, "mar.md": MaskedSamplingSettings}
"""The settings that a page documents, by its name."""


def settings_table(kind: type) -> str:
    """A Markdown table with one row per sampling setting: name, default, range and meaning."""
    rows = ["| setting | default | range | meaning |", "| --- | --- | --- | --- |"]
    for field in dataclasses.fields(kind):
        declared = field.metadata["setting"]
        default = "none" if field.default in (None, ()) else f"`{str(field.default).lower()}`"
        rows.append(f"| `{field.name}` | {default} | {declared.range or 'true or false'} | {declared.help} |")
    return "\n".join(rows)


def with_table(page: str, kind: type) -> str:
    """A page with the present table of some settings between its markers."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{settings_table(kind)}\n{END}{after}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_table(path.read_text(encoding="utf-8"), PAGES[path.name]), encoding="utf-8")
