"""Standard output and standard error: every character is shown, and a closed reader is no error."""

import os
import sys


def let_streams_show_everything() -> None:
    """Write characters that a stream cannot encode as escapes, such as ``\\u00e9``, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def close_streams_quietly() -> None:
    """After the reader of the output has closed it, prevent error messages when Python exits."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            os.dup2(nothing, stream.fileno())
        except (OSError, ValueError, AttributeError):
            continue


def one_line(message: str) -> str:
    """A message without line breaks and without characters that would control a terminal."""
    words = " ".join(message.split())
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in words)
