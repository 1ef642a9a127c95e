"""Requests that cannot be met: the exception, the reason that its message quotes, missing packages."""

from importlib.util import find_spec

LONGEST_REASON = 200


class UserError(ValueError):
    """A request that cannot be met, told in one sentence: what is wrong and what would be right.

    The command line prints the sentence alone; Python callers may catch it as a ``ValueError``. Line breaks
    in what it quotes become spaces.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def reason(error: BaseException) -> str:
    """Why something failed, in a part of a sentence: without error numbers, codecs and line breaks."""
    if isinstance(error, UnicodeError):
        return "it is not a text in UTF-8"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, KeyError):
        return f"{error} is missing"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= LONGEST_REASON else text[:LONGEST_REASON] + "…"


def require(*packages: str, extra: str | None = None) -> None:
    """Check that optional packages are installed, without importing them.

    Args:
        packages: the names by which they are imported.
        extra: the extra of OpenHART that installs them; None if each is installed by itself.

    Raises:
        UserError: one of them is not installed; the message has the command that installs them.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        names = [package.replace("_", "-") for package in missing]
        wanted = f"'openhart[{extra}]'" if extra else " ".join(names)
        verb = "is" if len(missing) == 1 else "are"
        raise UserError(f"{', '.join(names)} {verb} not installed: pip install {wanted}")
