"""Figures from the literature, each with its source and with who measured it."""

import tomllib
from functools import cache
from importlib.resources import files
from typing import Literal

from pydantic import BaseModel, ConfigDict, FiniteFloat


class Row(BaseModel):
    """One model in a table.

    Attributes:
        model: its name and settings.
        status: whether the authors published the figures or others measured them.
        source: where they were read.
        values: column → figure; columns without a figure are absent.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    model: str
    status: Literal["published", "measured by others", "measured here"]
    source: str
    values: dict[str, FiniteFloat | str]


class Table(BaseModel):
    """A table of one benchmark.

    Attributes:
        title: what is compared.
        columns: names of the figures.
        benchmark: stored results whose benchmark begins with this name join the table; None for none.
        note: what a reader must know to compare the rows.
        rows: the models.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    title: str
    columns: list[str]
    benchmark: str | None = None
    note: str = ""
    rows: list[Row]


@cache
def published_tables() -> list[Table]:
    """The tables of ``published.toml``."""
    text = (files("openhart.evaluation.report") / "published.toml").read_text("utf-8")
    return [Table.model_validate(table) for table in tomllib.loads(text)["tables"]]
