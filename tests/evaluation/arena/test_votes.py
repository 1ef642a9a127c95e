import pytest

from openhart.errors import UserError
from openhart.evaluation.arena.votes import Vote, VoteFile

DIGESTS = {"a": "1", "b": "2"}


def opened(path, digests=DIGESTS):
    return VoteFile.open(path, {name: path.parent / name for name in digests}, digests)


def test_votes_are_found_again(tmp_path):
    path = tmp_path / "new" / "votes.sqlite"
    votes = [Vote("me", "0", "a", "b", "left", 1.5), Vote("you", "1", "b", "a", "tie", 2.0)]
    for vote in votes:
        opened(path).add(vote)
    assert opened(path).all() == votes


def test_only_the_raters_own_last_vote_is_removed(tmp_path):
    votes = opened(tmp_path / "votes.sqlite")
    mine, first, second = (Vote(*v, "a", "b", "left", 1.0) for v in (("me", "0"), ("you", "0"), ("you", "1")))
    for vote in (first, mine, second):
        votes.add(vote)
    assert votes.remove_last("you")
    assert votes.all() == [first, mine]
    assert not votes.remove_last("nobody")


def test_votes_on_other_images_are_refused(tmp_path):
    opened(tmp_path / "votes.sqlite")
    with pytest.raises(UserError, match=r"holds votes on other images \(a, b\): name a new file"):
        opened(tmp_path / "votes.sqlite", {"a": "1", "b": "changed"})


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "votes.sqlite"
    path.write_text("no database")
    with pytest.raises(UserError, match="cannot be used as a file of votes"):
        opened(path)
    with pytest.raises(UserError, match="there is no file of votes"):
        VoteFile(tmp_path / "absent")
    assert path.read_text() == "no database"
