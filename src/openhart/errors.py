"""The one exception that means: the caller asked for something that cannot be."""

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
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= LONGEST_REASON else text[:LONGEST_REASON] + "…"
