import csv

import pytest
from PIL import Image

from openhart.errors import UserError
from openhart.evaluation.benchmarks.dpg import (
    ask_all,
    crops,
    dpg_result,
    questions_as_published,
    questions_corrected,
    read_table,
    score_all,
    score_as_published,
    score_corrected,
)
from tests.evaluation.recorded import told

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


def test_a_folder_of_grids_is_asked_and_scored(tmp_path):
    table = tmp_path / "dpg_bench.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, TOLD["columns"])
        writer.writeheader()
        writer.writerows([FIRST, question("a", 1, "0"), question("b", 1, "0")])
    rows = read_table(table)
    grid = Image.new("RGB", (8, 8))
    grid.paste("white", (4, 0, 8, 4))
    grid.save(tmp_path / "a.png")
    grid.save(tmp_path / "c.png")
    (tmp_path / "b.png").write_bytes(b"")

    def ask(picture, text):
        assert text == "a 1?"
        return "yes" if picture.getpixel((0, 0)) == (255, 255, 255) else "no"

    answers = ask_all(sorted(tmp_path.glob("*.png")), questions_corrected(rows), ask, resolution=4)
    published = score_all(answers, questions_as_published(rows), score_as_published)
    corrected = score_all(answers, questions_corrected(rows), score_corrected)
    assert published.items[0].pictures == (0, 1, 0, 0)
    assert published.failed == ("b.png", "c.png")
    result = dpg_result(published, corrected, "a model", 4, 4)
    assert result.figure("DPG as published").value == result.figure("DPG corrected").value == 25
    assert result.figure("DPG corrected").label == "DPG corrected@1"
    assert result.details["corrected"]["failed"] == ["b.png", "c.png"]


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
