"""A page of results: published figures, figures measured by others, and stored results of this program."""
