"""The one exception that means: the caller asked for something that cannot be."""


class UserError(ValueError):
    """A request that cannot be met, told in one sentence: what is wrong and what would be right.

    The command line prints the sentence alone; Python callers may catch it as a ``ValueError``.
    """
