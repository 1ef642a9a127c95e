"""Stored measurements of speed, as ``benchmarks/generation.py`` writes them."""

from pathlib import Path

from pydantic import BaseModel, FiniteFloat


class Program(BaseModel):
    """One program in a benchmark of speed."""

    program: str
    seconds: FiniteFloat
    times_as_fast: FiniteFloat
    peak_gib: FiniteFloat


class Batch(BaseModel):
    """The programs at one batch size."""

    batch: int
    programs: list[Program]


class Machine(BaseModel):
    """Where it was measured."""

    processor: str = ""
    device: str = ""
    cores: int
    torch: str

    @property
    def label(self) -> str:
        """Device and cores in words."""
        return self.device or f"{self.cores} cores of {self.processor}"


class Speed(BaseModel):
    """Seconds per image and peak memory of several programs on one model shape."""

    machine: Machine
    date: str
    shape: str
    batches: list[Batch]

    def table(self, path: Path) -> list[str]:
        """Lines of a Markdown table."""
        where = f"{self.machine.label}, torch {self.machine.torch}, {self.date}"
        lines = [
            f"**{self.shape}**, {where} (`{path}`)",
            "",
            "| program | batch size | seconds per image | times as fast as the first | peak memory, GiB |",
            "| --- | --- | --- | --- | --- |",
        ]
        for batch in self.batches:
            for program in batch.programs:
                seconds = program.seconds / batch.batch
                shown = f"{seconds:,.0f}" if seconds >= 100 else f"{seconds:.3g}"
                figures = f"{program.times_as_fast:.2f} | {program.peak_gib:.1f}"
                lines.append(f"| {program.program} | {batch.batch} | {shown} | {figures} |")
        return lines
