"""``openhart evaluate arena``, ``ratings`` and ``report`` as a user runs them."""

import json
import re
import signal
import subprocess
import sys
import urllib.request

import pytest
from PIL import Image

from openhart.cli import main
from openhart.evaluation.arena.votes import Vote, VoteFile


@pytest.mark.slow
def test_the_arena_takes_votes_until_it_is_interrupted(folders, tmp_path):
    votes = tmp_path / "votes.sqlite"
    command = [
        sys.executable,
        "-m",
        "openhart",
        "evaluate",
        "arena",
        *map(str, folders),
        "-o",
        str(votes),
        "--port",
        "0",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as arena:
        address = re.search(r"http://\S+/", arena.stdout.readline())[0]
        pair = json.load(urllib.request.urlopen(f"{address}pair?rater=me"))
        ballot = json.dumps({"token": pair["token"], "choice": "left", "rater": "me"}).encode()
        after = json.load(urllib.request.urlopen(urllib.request.Request(f"{address}vote", ballot)))
        arena.send_signal(signal.SIGINT)
    assert after["done"] == 1
    assert [vote.choice for vote in VoteFile(votes).all()] == ["left"]


@pytest.mark.slow
def test_ratings_are_written_with_their_plot(tmp_path, capsys):
    file = VoteFile.open(tmp_path / "v.sqlite", {"a": tmp_path, "b": tmp_path}, {"a": "1", "b": "2"})
    for number in range(6):
        file.add(Vote("me", str(number), "a", "b", "left" if number else "right", 1.0))
    plot = tmp_path / "ratings.png"
    assert main(["evaluate", "ratings", str(tmp_path / "v.sqlite"), "--plot", str(plot)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [figure["name"] for figure in result["figures"]] == ["Elo of a", "Elo of b"]
    assert result["details"]["duels"][0]["share"] == pytest.approx(5 / 6)
    assert Image.open(plot).size[0] > 300


def test_the_report_is_written(tmp_path, capsys):
    page = tmp_path / "results.md"
    assert main(["evaluate", "report", "-o", str(page)]) == 0
    assert "| HART 0.7B | 5.38 |" in page.read_text()


def test_mistakes_are_one_sentence(folders, tmp_path, capsys):
    wrong = [
        (["arena", str(folders[0]), "-o", str(tmp_path / "v")], 1, "at least two folders"),
        (["ratings", str(tmp_path / "absent")], 1, "there is no file of votes"),
        (["report", "-o", str(tmp_path / "page.html")], 2, "ends in .md"),
        (
            ["report", str(tmp_path / "absent"), "-o", str(tmp_path / "page.md")],
            1,
            "there is no file or folder",
        ),
    ]
    for words, status, sentence in wrong:
        assert main(["evaluate", *words]) == status
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "v").exists()
    assert not (tmp_path / "page.md").exists()
