"""Hold pictures and captions of a corpus out of training: python hold_out.py CORPUS/train FOLDER

Makes ``FOLDER/train``, ``FOLDER/pictures`` and ``FOLDER/captions``, image folders without images: their
``metadata.jsonl`` points at the corpus. ``pictures`` are one in twenty, each of a thing of which others are
learned, in another style or on another background; ``captions`` are captions of learned pictures that are not
learned themselves. Both are chosen by hashes of names, so that they stay the same.
"""

import hashlib
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

ONE_IN = 20
LEAST_CAPTIONS = 3

Record = dict[str, Any]


def hold_out(corpus: Path, folder: Path) -> dict[str, int]:
    """Write the three folders; returns the number of records of each."""
    lines = (corpus / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    parts = split([json.loads(line) for line in lines])
    for name, records in parts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for record in records:
            record["file_name"] = os.path.relpath(corpus / record["file_name"], folder / name)
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        (folder / name / "metadata.jsonl").write_text(text, encoding="utf-8")
    return {name: len(records) for name, records in parts.items()}


def split(records: list[Record]) -> dict[str, list[Record]]:
    """Records that are learned, and those of held-out pictures and captions."""
    left = Counter(record["thing"] for record in records)
    parts: dict[str, list[Record]] = {"train": [], "pictures": [], "captions": []}
    for record in records:
        name, captions = record["file_name"], record["captions"]
        if chosen(name) and left[record["thing"]] > 1:
            left[record["thing"]] -= 1
            parts["pictures"].append(dict(record))
            continue
        if chosen("caption of " + name) and len(captions) >= LEAST_CAPTIONS:
            kept = captions[:-1]
            parts["captions"].append(record | {"captions": captions[-1:], "text": captions[-1]})
            record = record | {"captions": kept, "text": kept[0]}
        parts["train"].append(dict(record))
    return parts


def chosen(name: str) -> bool:
    """Whether a name is one in twenty."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % ONE_IN == 0


if __name__ == "__main__":
    print(hold_out(Path(sys.argv[1]), Path(sys.argv[2])))
