import pytest
from starlette.testclient import TestClient

from openhart.evaluation.arena.app import Arena, arena_app
from openhart.evaluation.arena.entries import find_entries
from openhart.evaluation.arena.votes import VoteFile


@pytest.fixture
def arena(folders, tmp_path):
    entries = find_entries(folders)
    return Arena(entries, VoteFile.open(tmp_path / "votes.sqlite", entries.folders, entries.digests), seed=0)


@pytest.fixture
def client(arena):
    return TestClient(arena_app(arena))


def shown_colours(client, token):
    from io import BytesIO

    from PIL import Image

    pixels = [Image.open(BytesIO(client.get(f"/pair/{token}/{side}").content)) for side in ("left", "right")]
    return ["red" if image.getpixel((0, 15))[0] else "blue" for image in pixels]


def test_a_rater_votes_through_all_pairs_and_the_votes_name_what_was_shown(client, arena):
    pair, seen = client.get("/pair", params={"rater": "me"}).json(), []
    while "token" in pair:
        colours = shown_colours(client, pair["token"])
        choice = ("left", "right")[colours.index("red")]
        seen.append((colours[0], colours[1], choice))
        ballot = {"token": pair["token"], "choice": choice, "rater": "me"}
        pair = client.post("/vote", json=ballot).json()
    assert pair == {"done": 3, "total": 3}
    assert [(v.left, v.right, v.choice) for v in arena.votes.all()] == seen


def test_a_pair_does_not_reveal_its_models(client):
    pair = client.get("/pair", params={"rater": "me"})
    image = client.get(f"/pair/{pair.json()['token']}/left")
    for text in (pair.text, str(dict(image.headers))):
        assert "red" not in text
        assert "blue" not in text


def test_one_pair_counts_once(client, arena):
    ballot = {
        "token": client.get("/pair", params={"rater": "me"}).json()["token"],
        "choice": "tie",
        "rater": "me",
    }
    assert client.post("/vote", json=ballot).status_code == 200
    assert client.post("/vote", json=ballot).status_code == 409
    assert len(arena.votes.all()) == 1


def test_undo_shows_the_pair_again(client, arena):
    pair = client.get("/pair", params={"rater": "me"}).json()
    client.post("/vote", json={"token": pair["token"], "choice": "tie", "rater": "me"})
    assert client.post("/undo", params={"rater": "me"}).json()["done"] == 0
    assert arena.votes.all() == []
    assert client.post("/undo", params={"rater": "me"}).status_code == 409


@pytest.mark.parametrize(
    "ballot", [b"", b"[]", b'{"token": "x"}', b'{"token": "x", "choice": "both", "rater": "me"}']
)
def test_a_wrong_ballot_is_one_sentence(client, ballot):
    answer = client.post("/vote", content=ballot)
    assert answer.status_code == 400
    assert "choice (left, right or tie)" in answer.json()["error"]


def test_votes_from_another_site_are_refused(client):
    for path in ("/vote", "/undo?rater=me"):
        answer = client.post(path, content=b"{}", headers={"origin": "http://elsewhere.example"})
        assert answer.status_code == 403


def test_files_outside_the_page_are_not_served(client):
    for path in ("/votes.py", "/..%2fapp.py", "/pair/unknown/left", "/pair/unknown/models"):
        assert client.get(path).status_code == 404
