"""The exception for mistakes of the user, reasons of failures in words, and missing optional packages."""

from importlib.util import find_spec

MAX_REASON_LENGTH = 200


class UserError(ValueError):
    """A mistake of the user, in one sentence that states what is wrong and what would be right.

    The command line prints only the sentence; Python callers may catch it as a ``ValueError``. Line breaks in
    the message become spaces.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def reason(error: BaseException) -> str:
    """The reason of a failure as part of a sentence, without error numbers, codecs and line breaks."""
    if isinstance(error, UnicodeError):
        return "it is not a text in UTF-8"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, KeyError):
        return f"{error} is missing"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= MAX_REASON_LENGTH else text[:MAX_REASON_LENGTH] + "…"


def require(*packages: str, extra: str | None = None) -> None:
    """Check that optional packages are installed, without importing them.

    Args:
        packages: the names by which they are imported.
        extra: the extra of OpenHART that installs them; None if each is installed by itself.

    Raises:
        UserError: if one of them is not installed; the message contains the command that installs them.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        names = [package.replace("_", "-") for package in missing]
        wanted = f"'openhart[{extra}]'" if extra else " ".join(names)
        verb = "is" if len(missing) == 1 else "are"
        raise UserError(f"{', '.join(names)} {verb} not installed: pip install {wanted}")
