"""Files that would do harm if they were run, and where they are put."""

import pickle
import zipfile
from pathlib import Path

import torch


class Harm:
    """Pickled, it writes a file once it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.write_text, (self.mark, "harm")


def pickled(mark: Path) -> bytes:
    return pickle.dumps(Harm(mark))


def saved_by_torch(mark: Path, path: Path) -> None:
    """As a file of weights: a zip archive whose pickle does harm beside a tensor."""
    torch.save({"weight": torch.zeros(2), "more": Harm(mark)}, path)
    assert zipfile.is_zipfile(path)


def python_code(mark: Path) -> str:
    return f"import pathlib\npathlib.Path({str(mark)!r}).write_text('harm')\n"
