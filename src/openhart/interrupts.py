"""Ctrl-C and SIGTERM: nothing half-written stays, and a training run ends between two steps."""

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
    """The user or the system ended the program; the message says what was kept.

    Args:
        message: one sentence.
        number: the signal.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.status = 128 + number


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Within the block SIGTERM is raised as an exception, so that what clears up after Ctrl-C clears up
    after it too."""
    owner = os.getpid()

    def stop(number: int, _: FrameType | None) -> None:
        if os.getpid() == owner:
            raise Stopped("terminated", number)
        _die(number)

    with _handled({signal.SIGTERM: stop}):
        yield


class PendingStop:
    """A request to stop that waits for the present step of a run: a context manager.

    Ctrl-C a second time stops at once.

    Args:
        quiet: do not announce that the step is being finished.
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
    """Let a process that loads data leave signals to the one that it serves (a ``worker_init_fn``).

    Ctrl-C, ``timeout`` and service managers signal whole groups of processes, and the run needs its loaders
    until the step is done. A second SIGTERM is obeyed: the loader's owner sends it to one that hangs.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: signal.signal(number, signal.SIG_DFL))


@contextmanager
def _handled(handlers: dict[Any, Any]) -> Iterator[None]:
    """Handlers of signals for the length of a block; Python allows them in its main thread alone."""
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
    """End a forked process, which inherited a handler, as if there were none."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
