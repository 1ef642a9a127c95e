"""Handling of Ctrl-C and SIGTERM: files are cleaned up, and a training run ends between two steps."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

AGAIN_AFTER = 1.0  # seconds; `timeout` and `torchrun` send a signal twice


class Stopped(KeyboardInterrupt):
    """The user or the system stopped the program.

    Args:
        message: one sentence that states what was saved.
        number: number of the signal; the exit code is 128 + ``number``.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.status = 128 + number


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Within the block, SIGTERM raises :class:`Stopped`, so that cleanup runs as it does after Ctrl-C."""
    owner = os.getpid()

    def stop(number: int, _: FrameType | None) -> None:
        if os.getpid() == owner:
            raise Stopped("terminated", number)
        _die(number)

    with _handled({signal.SIGTERM: stop}):
        yield


class PendingStop:
    """Context manager that records SIGINT and SIGTERM, so that a run can finish its current step.

    After a signal, ``number`` is its number; before, it is None. A second Ctrl-C, more than one second after
    the first signal, raises ``KeyboardInterrupt`` immediately.

    Args:
        quiet: do not print that the current step is being finished.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.number: int | None = None
        self._since = 0.0

    def __enter__(self) -> "PendingStop":
        self._owner = os.getpid()
        self._handled = _handled({signal.SIGINT: self._note, signal.SIGTERM: self._note})
        self._handled.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._handled.__exit__(*error)

    def _note(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self._owner:
            _die(number)
        now = time.monotonic()
        if self.number is None:
            self.number, self._since = number, now
            if not self.quiet:
                print(
                    "\nopenhart: finishing this step and saving it; Ctrl-C again stops at once",
                    file=sys.stderr,
                )
        elif number == signal.SIGINT and now - self._since > AGAIN_AFTER:
            raise KeyboardInterrupt


def outlive_interrupts(_: int) -> None:
    """Make a data loading worker ignore signals that are meant for its parent (a ``worker_init_fn``).

    Ctrl-C, ``timeout`` and service managers send signals to whole process groups, and a run needs its workers
    until its step is finished. A second SIGTERM ends the worker: the parent sends it to a worker that hangs.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: signal.signal(number, signal.SIG_DFL))


@contextmanager
def _handled(handlers: dict[Any, Any]) -> Iterator[None]:
    """Install signal handlers within a block; nothing outside the main thread, where Python forbids it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _die(number: int) -> None:
    """End a forked process that inherited a handler, with the default action of the signal."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
