"""What befalls files: they are cut, a byte is turned, something else is put in their place."""

import random
from collections.abc import Iterator
from pathlib import Path

OTHERS = {
    "nothing": b"",
    "zeros": bytes(512),
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    "a pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00}\x94.",
    "a JSON list": b"[1, 2, 3]\n",
    "a JSON number": b"3\n",
}


def damages(path: Path, seed: int, each: int = 3) -> Iterator[tuple[str, bytes]]:
    """Ways to damage a file: what was done, and its content then.

    Args:
        path: the file.
        seed: of the places.
        each: cuts, and turned bytes.
    """
    content, chance = path.read_bytes(), random.Random(f"{seed} {path.name}")
    for _ in range(each):
        place = chance.randrange(len(content))
        yield f"cut at {place}", content[:place]
        place, turn = chance.randrange(len(content)), chance.randrange(1, 256)
        yield f"byte {place} turned by {turn}", flipped(content, place, turn)
    yield from OTHERS.items()


def flipped(content: bytes, place: int, turn: int = 0xFF) -> bytes:
    return content[:place] + bytes([content[place] ^ turn]) + content[place + 1 :]
