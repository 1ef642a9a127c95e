import json

import pytest
from PIL import Image

from openhart.errors import UserError
from openhart.evaluation.report.page import read_stored, write_report
from openhart.evaluation.result import Figure, Result, write_result

SPEED = {
    "machine": {"processor": "EPYC", "cores": 2, "torch": "2.13"},
    "date": "2026-11-23",
    "shape": "var-d16-256",
    "batches": [
        {"batch": 4, "programs": [{"program": "plain", "seconds": 8, "times_as_fast": 1, "peak_gib": 2.5}]}
    ],
}


@pytest.fixture
def stored(tmp_path):
    figures = (
        Figure("FID", 3.25, 50_000, (3.1, 3.4), "inception", {"resize": "none"}),
        Figure("top1", 0.5, 256),
    )
    write_result(Result("imagenet, adm rules", figures, {"model": "var-d16"}), tmp_path / "imagenet.json")
    (tmp_path / "speed.json").write_text(json.dumps(SPEED))
    (tmp_path / "other.json").write_text("{}")
    return tmp_path


def test_the_page_holds_published_figures_and_ours_with_all_that_makes_them_comparable(stored, tmp_path):
    page = tmp_path / "docs" / "results.md"
    write_report(read_stored([stored]), page)
    lines = page.read_text().splitlines()
    hart = next(line for line in lines if line.startswith("| HART 0.7B |"))
    assert "| 5.38 | 29.09 | 0.56 | 80.89 |" in hart
    assert "published | HART, arXiv 2410.10812" in hart
    ours = next(line for line in lines if line.startswith("| var-d16 |"))
    assert "3.25 (FID@50k, inception)" in ours
    assert "measured here" in ours
    assert f"{stored / 'imagenet.json'}" in ours
    assert "| FID@50k | 3.25 | 3.1 – 3.4 | inception | resize: none |" in lines
    assert "| top1@256 | 0.5 | – | – | – |" in lines
    assert "| plain | 4 | 2 | 1.00 | 2.5 |" in lines
    assert Image.open(page.with_suffix(".png")).size[0] > 300


def test_pipelines_become_one_table_and_other_benchmarks_are_listed(stored, tmp_path):
    figures = [
        Figure("own, seconds per image", 2.0, 3, (1.5, 2.5)),
        Figure("sdxl, seconds per image", 4.0, 3, (3.5, 4.5)),
        Figure("sdxl, CLIP score", 28.0, 4, (27, 29), "clip"),
    ]
    details = {"pipelines": {"own": {}, "sdxl": {}}}
    write_result(Result("pipelines", tuple(figures), {}, details), stored / "pipelines.json")
    dpg = Figure("DPG corrected", 80.5, 1065, (79, 82), "a model", {"resolution": 1024})
    write_result(Result("dpg", (dpg,)), stored / "dpg.json")
    write_report(read_stored([stored]), tmp_path / "page.md")
    lines = (tmp_path / "page.md").read_text().splitlines()
    table = lines.index("| model | seconds per image@3 | CLIP score@4 |")
    assert lines[table + 2 : table + 4] == [
        "| own | 2 (1.5 – 2.5) | – |",
        "| sdxl | 4 (3.5 – 4.5) | 28 (27 – 29) |",
    ]
    assert "| DPG corrected@1065 | 80.5 | 79 – 82 | a model | resolution: 1024 |" in lines


def test_the_same_results_give_the_same_page(stored, tmp_path):
    for name in ("a.md", "b.md"):
        write_report(read_stored([stored]), tmp_path / name)
    assert (tmp_path / "a.md").read_text().replace("a.png", "b.png") == (tmp_path / "b.md").read_text()


def test_a_named_file_that_is_no_result_is_refused(stored):
    with pytest.raises(UserError, match=r"other\.json is neither a result"):
        read_stored([stored / "other.json"])
    with pytest.raises(UserError, match="there is no file or folder"):
        read_stored([stored / "absent"])
    (stored / "broken.json").write_text("{")
    with pytest.raises(UserError, match=r"broken\.json cannot be read as JSON"):
        read_stored([stored])
