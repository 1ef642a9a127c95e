"""Images that are fetched by their address: a store of limited size, in memory, for a limited time."""

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class StoredFile:
    """A file of the store.

    Attributes:
        content: its bytes.
        media_type: its media type.
        until: time of the clock after which it is gone.
    """

    content: bytes
    media_type: str
    until: float


def new_name(suffix: str) -> str:
    """A name that cannot be guessed."""
    return f"{secrets.token_urlsafe(24)}.{suffix}"


class FileStore:
    """Keeps files under names that cannot be guessed; the oldest are removed when the store is full.

    Args:
        seconds: how long a file is kept.
        largest: bytes of all files together.
        clock: gives the time in seconds.
    """

    def __init__(
        self, seconds: float = 3600, largest: int = 256 * 2**20, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.seconds = seconds
        self.largest = largest
        self.size = 0
        self._clock = clock
        self._files: OrderedDict[str, StoredFile] = OrderedDict()

    def add(self, content: bytes, media_type: str, suffix: str) -> str:
        """Store a file; returns its name."""
        name = new_name(suffix)
        self.put(name, content, media_type)
        return name

    def put(self, name: str, content: bytes, media_type: str) -> None:
        """Store a file under a new name of :func:`new_name`."""
        self._files[name] = StoredFile(content, media_type, self._clock() + self.seconds)
        self.size += len(content)
        self._remove_old()

    def get(self, name: str) -> StoredFile | None:
        """A file, or None if there is none of this name or if its time is over."""
        self._remove_old()
        return self._files.get(name)

    def _remove_old(self) -> None:
        while self._files:
            oldest = next(iter(self._files))
            file = self._files[oldest]
            if file.until > self._clock() and self.size <= self.largest:
                return
            del self._files[oldest]
            self.size -= len(file.content)
