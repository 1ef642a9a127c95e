"""The votes of an arena, in one SQLite file."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from openhart.errors import UserError, reason

Choice = Literal["left", "right", "tie"]
CHOICES: tuple[Choice, ...] = get_args(Choice)
FORMAT = 1
COLUMNS = "rater, image, left_model, right_model, choice, seconds"
SCHEMA = """
CREATE TABLE models (name TEXT PRIMARY KEY, folder TEXT NOT NULL, digest TEXT NOT NULL);
CREATE TABLE votes (
    id INTEGER PRIMARY KEY,
    rater TEXT NOT NULL,
    image TEXT NOT NULL,
    left_model TEXT NOT NULL REFERENCES models(name),
    right_model TEXT NOT NULL REFERENCES models(name),
    choice TEXT NOT NULL CHECK (choice IN ('left', 'right', 'tie')),
    seconds REAL NOT NULL,
    voted_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
);
"""


@dataclass(frozen=True)
class Vote:
    """One judgement.

    Attributes:
        rater: who voted.
        image: path of the image below both folders, without the suffix.
        left: model whose image was shown at the left.
        right: model whose image was shown at the right.
        choice: which image was better, or ``tie``.
        seconds: time from showing the pair to the vote.
    """

    rater: str
    image: str
    left: str
    right: str
    choice: Choice
    seconds: float


class VoteFile:
    """An SQLite file with the votes on certain folders of images.

    Every vote is written to the disk before :meth:`add` returns, so that an interruption loses none.

    Args:
        path: of the file, which exists.

    Raises:
        UserError: there is no such file, or it holds no votes of an arena.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise UserError(f"there is no file of votes {path}")
        with self._connection() as connection:
            if connection.execute("PRAGMA user_version").fetchone()[0] != FORMAT:
                raise UserError(f"{path} is not a file of votes of openhart evaluate arena")

    @classmethod
    def open(cls, path: Path, folders: Mapping[str, Path], digests: Mapping[str, str]) -> "VoteFile":
        """Open the votes on these folders, or begin a new file.

        Args:
            path: of the file.
            folders: name of each model → its folder.
            digests: name of each model → hash of its images.

        Raises:
            UserError: the file holds votes on other folders or on other images.
        """
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(path)) as connection, connection:
                connection.executescript(f"{SCHEMA} PRAGMA user_version = {FORMAT};")
                rows = [(name, str(folder), digests[name]) for name, folder in folders.items()]
                connection.executemany("INSERT INTO models VALUES (?, ?, ?)", rows)
        votes = cls(path)
        if votes.digests() != dict(digests):
            raise UserError(
                f"{path} holds votes on other images ({', '.join(votes.digests())}): "
                "name a new file for these folders"
            )
        return votes

    def digests(self) -> dict[str, str]:
        """Name of each model → hash of the images that the votes are about."""
        with self._connection() as connection:
            return dict(connection.execute("SELECT name, digest FROM models ORDER BY rowid").fetchall())

    def add(self, vote: Vote) -> None:
        """Write one vote."""
        values = (vote.rater, vote.image, vote.left, vote.right, vote.choice, vote.seconds)
        with self._connection() as connection:
            connection.execute(
                f"INSERT INTO votes ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",
                values,
            )

    def remove_last(self, rater: str) -> bool:
        """Remove the last vote of a rater; false if there is none."""
        with self._connection() as connection:
            removed = connection.execute(
                "DELETE FROM votes WHERE id = (SELECT MAX(id) FROM votes WHERE rater = ?)", (rater,)
            )
            return removed.rowcount == 1

    def all(self) -> list[Vote]:
        """All votes, in the order of voting."""
        with self._connection() as connection:
            rows = connection.execute(f"SELECT {COLUMNS} FROM votes ORDER BY id")
            return [Vote(*row) for row in rows]

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path)) as connection, connection:
                yield connection
        except sqlite3.Error as error:
            raise UserError(f"{self.path} cannot be used as a file of votes: {reason(error)}") from error
