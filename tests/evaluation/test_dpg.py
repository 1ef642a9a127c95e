import csv
import json

import pytest
from PIL import Image

from openhart.errors import UserError
from openhart.evaluation.benchmarks.dpg import crops, dpg_result, evaluate_dpg, find_grids, score_all
from openhart.evaluation.dpg.questions import questions_as_published, questions_corrected, read_table
from openhart.evaluation.dpg.rules import score_as_published, score_corrected
from tests.evaluation.command_line import fails, run
from tests.evaluation.recorded import told
from tests.evaluation.tiny_networks import save_vilt

TOLD = told("dpg_cases")
CASES = [pytest.param(case, id=f"{case['id']} {case['about']}") for case in TOLD["cases"]]


def answers_of(case):
    return {
        image["file"]: [{int(number): text for number, text in one.items()} for one in image["answers"]]
        for image in case["images"]
    }


@pytest.mark.parametrize("case", CASES)
def test_scores_as_recorded(case):
    wanted = case["result"]
    scores = score_all(answers_of(case), questions_as_published(case["rows"]), score_as_published)
    got = {item.file: (item.pictures, item.mean) for item in scores.items}
    assert set(got) == set(wanted["images"])
    for file, value in wanted["images"].items():
        assert got[file][0] == pytest.approx(value["pictures"])
        assert got[file][1] == pytest.approx(value["mean"])
    assert sorted(scores.failed) == sorted(wanted["failed"])
    assert scores.level_1 == pytest.approx(wanted["level_1"])
    assert scores.level_2 == pytest.approx(wanted["level_2"])
    assert scores.score == (None if wanted["score"] is None else pytest.approx(wanted["score"]))


def question(item, number, dependency, category="entity - whole"):
    return {
        "item_id": item,
        "proposition_id": str(number),
        "dependency": dependency,
        "tuple": f"{category} (thing)",
        "question_natural_language": f"{item} {number}?",
    }


FIRST = question("first", 1, "0")


def test_a_parent_listed_later_is_consulted_before_its_own_zeroing():
    rows = [FIRST, question("a", 1, "2"), question("a", 2, "3"), question("a", 3, "0")]
    answers = {"a.png": [{1: "yes", 2: "yes", 3: "no"}]}
    published = score_all(answers, questions_as_published(rows), score_as_published)
    corrected = score_all(answers, questions_corrected(rows), score_corrected)
    assert published.score == pytest.approx(100 / 3)
    assert corrected.score == 0


def test_the_first_row_counts_where_it_is_corrected():
    rows = [question("a", 1, "0"), question("a", 2, "1", "attribute - color")]
    answers = {"a.x.png": [{1: "no", 2: "yes"}, {1: "yes", 2: "yes"}]}
    published = score_all(answers, questions_as_published(rows), score_as_published)
    assert (published.score, published.failed) == (None, ("a.x.png",))  # its parent was left out
    corrected = score_all(answers, questions_corrected(rows), score_corrected)
    assert corrected.score == 50
    assert corrected.level_1 == {"attribute": 50, "entity": 50}
    with pytest.raises(UserError, match="none of the 1 files"):
        dpg_result(published, corrected, "a model", 4, 2)


def test_only_an_exact_yes_counts_and_rows_apart_replace_each_other():
    rows = [FIRST, question("a", 1, "0"), question("b", 1, "0"), question("a", 2, "0")]
    published = questions_as_published(rows)
    assert list(published["a"]) == [2]
    assert list(questions_corrected(rows)["a"]) == [1, 2]
    for answer in ("Yes", "yes.", "no", ""):
        assert score_as_published("a.png", published["a"], [{2: answer}]).mean == 0


def test_circles_of_parents_end():
    rows = [question("a", 1, "2"), question("a", 2, "1, 2")]
    scores = score_all({"a": [{1: "yes", 2: "yes"}]}, questions_corrected(rows), score_corrected)
    assert scores.score == 100


@pytest.fixture
def table(tmp_path):
    """Questions about the items a and b; the first row belongs to no image."""
    path = tmp_path / "dpg_bench.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, TOLD["columns"])
        writer.writeheader()
        writer.writerows([FIRST, question("a", 1, "0"), question("a", 2, "1"), question("b", 1, "0")])
    return path


@pytest.fixture
def grids(tmp_path):
    """A grid with one white image, a broken file, and a file of no item."""
    folder = tmp_path / "grids"
    folder.mkdir()
    grid = Image.new("RGB", (8, 8))
    grid.paste("white", (4, 0, 8, 4))
    grid.save(folder / "a.png")
    grid.save(folder / "c.png")
    (folder / "b.png").write_bytes(b"")
    return folder


class White:
    """Answers that the first thing is there in white images, the second one always."""

    name = "a model"

    def __call__(self, picture, texts):
        assert list(texts) == ["a 1?", "a 2?"]
        return ["yes" if picture.getpixel((0, 0)) == (255, 255, 255) else "no", "yes"]


def test_a_folder_of_grids_is_asked_and_scored(grids, table):
    result, lines = evaluate_dpg(find_grids(grids), read_table(table), White(), resolution=4, quiet=True)
    for name in ("DPG as published", "DPG corrected"):
        figure = result.figure(name)
        assert (figure.value, figure.label, figure.extractor) == (25, f"{name}@1", "a model")
    assert result.details["corrected"]["failed"] == ["b.png", "c.png"]
    assert result.details["as published"]["level_1"] == {"entity": 50}  # last image, before the parent rule
    assert result.details["corrected"]["level_1"] == {"entity": 25}
    assert not result.details["complete"]
    assert lines[1] == {"file": "a.png", "picture": 1, "answers": {1: "yes", 2: "yes"}}


def test_the_command_scores_with_a_model_of_transformers(capsys, grids, table, tmp_path):
    vqa = save_vilt(tmp_path / "vqa", answers=("yes",))
    command = ("evaluate", "dpg", grids, "--table", table, "--vqa", vqa)
    rows, report = tmp_path / "rows.jsonl", tmp_path / "r.json"
    code, stdout, stderr = run(capsys, *command, "--rows", rows, "-o", report, "--quiet")
    assert (code, stdout) == (0, ""), stderr
    stored = json.loads(report.read_text())
    assert [(figure["label"], figure["value"]) for figure in stored["figures"]] == [
        ("DPG as published@1", 100), ("DPG corrected@1", 100),
    ]  # fmt: skip
    assert stored["figures"][0]["rules"] == {"resolution": 4, "pictures": 4}
    assert stored["figures"][0]["extractor"].startswith(str(vqa))
    assert [json.loads(line)["picture"] for line in rows.read_text().splitlines()] == [0, 1, 2, 3]
    fails(capsys, 1, "must have the size 6×6, got 8×8", *command, "--resolution", "3")
    none = tmp_path / "none"
    fails(capsys, 1, "there is no folder", "evaluate", "dpg", none, "--table", table, "--vqa", vqa)
    fails(capsys, 1, "give the published dpg_bench.csv", *command[:4], none, "--vqa", vqa)
    fails(capsys, 1, "cannot load a model of visual question answering", *command[:6], none)
    (grids / "a.jpg").write_bytes(b"")
    fails(capsys, 1, "belong to one item", *command)


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(UserError, match="must have the size 8×8, got 8×6"):
        crops(Image.new("RGB", (8, 6)), 4, 4)
    with pytest.raises(UserError, match="there is no file"):
        read_table(tmp_path / "none.csv")
    (tmp_path / "bad.csv").write_text("item_id,text\na,b\n")
    with pytest.raises(UserError, match="no column proposition_id"):
        read_table(tmp_path / "bad.csv")
    with pytest.raises(UserError, match="must have numbers"):
        questions_corrected([question("a", 1, "x")])
