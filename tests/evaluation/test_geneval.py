import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from openhart.errors import UserError
from openhart.evaluation.benchmarks.geneval import (
    find_samples,
    geneval_result,
    read_rows,
    score_samples,
    summarize,
    summary_text,
    write_rows,
)
from openhart.evaluation.geneval.clip_colours import (
    ClipColours,
    colour_classifier,
    colour_texts,
    object_picture,
)
from openhart.evaluation.geneval.detections import Objects
from openhart.evaluation.geneval.rules import Thresholds, judge, keep, kept_indices, overlap, relations
from tests.evaluation.recorded import arrays, told

CASES = told("geneval_cases")["cases"]
RUNS = told("geneval_runs")["runs"]
COLOURS, COLOUR_ARRAYS = told("geneval_colour"), arrays("geneval_colour")
RELATION = re.compile(r"(?<=target, found )(.*)(?= target)")


class Written:
    """Detector and colour namer of a recording: each box's colour is written beside it."""

    name = "recorded"

    def __init__(self, *pictures):
        self.pictures = pictures
        self.colours = {}

    def objects(self, detections):
        self.colours = {
            (name, *np.array(box[:5], np.float32).tolist()): box[5]
            for name, boxes in detections.items()
            for box in boxes
        }
        return {
            name: Objects(np.array([box[:5] for box in boxes], np.float32).reshape(-1, 5))
            for name, boxes in detections.items()
        }

    def name_colours(self, objects, class_name):
        return [self.colours[class_name, *box.tolist()] for box in objects.boxes]

    def __call__(self, image, objects=None, class_name=None):
        if objects is not None:
            return self.name_colours(objects, class_name)
        red, green, _ = image.getpixel((0, 0))
        return self.objects(self.pictures[256 * red + green])


def in_some_order(reason):
    """A reason whose relations are a set."""
    return RELATION.sub(lambda found: " and ".join(sorted(found[0].split(" and "))), reason)


@pytest.mark.parametrize("case", [pytest.param(case, id=f"{case['id']} {case['about']}") for case in CASES])
def test_verdicts_as_recorded(case):
    options = Thresholds(**case.get("options") or {})
    recorded = Written()
    found, tag = recorded.objects(case["detections"]), case["metadata"]["tag"]
    threshold = options.counting_threshold if tag == "counting" else options.threshold
    kept = {name: kept_indices(objects.boxes, threshold, options) for name, objects in found.items()}
    assert {name: indices for name, indices in kept.items() if indices} == case["kept"]
    verdict = judge(case["metadata"], keep(found, tag, options), recorded.name_colours, options)
    assert verdict.correct == case["correct"]
    assert in_some_order(verdict.reason) == in_some_order(case["reason"])


@pytest.mark.parametrize("run", [pytest.param(run, id=run["name"]) for run in RUNS])
def test_whole_runs_as_recorded(run, tmp_path):
    pictures = []
    for folder in run["folders"]:
        place = tmp_path / "images" / folder["name"]
        (place / "samples").mkdir(parents=True)
        (place / "metadata.jsonl").write_text(json.dumps(folder["metadata"]))
        for file, detections in folder["samples"].items():
            index = len(pictures)
            Image.new("RGB", (4, 4), (index // 256, index % 256, 0)).save(place / "samples" / file, "PNG")
            pictures.append(detections)
    recorded = Written(*pictures)
    rows = list(score_samples(find_samples(tmp_path / "images"), recorded, recorded, quiet=True))
    wanted = [(row["filename"], row["correct"], in_some_order(row["reason"])) for row in run["results"]]
    got = [
        (row["filename"].removeprefix(f"{tmp_path}/images/"), row["correct"], in_some_order(row["reason"]))
        for row in rows
    ]
    assert got == wanted
    write_rows(rows, tmp_path / "results.jsonl")
    assert summary_text(summarize(read_rows(tmp_path / "results.jsonl"))) == run["summary_text"]
    result = geneval_result(rows, recorded, recorded)
    for figure in result.figures:
        assert figure.interval[0] <= figure.value <= figure.interval[1], figure
    assert not result.details["complete"]


class RecordedClip:
    """The stand-in CLIP of the recording."""

    name = "recorded"

    def image_features(self, images):
        means = [np.array(image, np.float64).reshape(-1, 3).mean(axis=0) for image in images]
        return torch.tensor(np.array([[*mean, 64] for mean in means]) / 255, dtype=torch.float32)

    def text_features(self, texts):
        return torch.tensor(np.array([self.text_feature(text) for text in texts]), dtype=torch.float32)

    def text_feature(self, text):
        colour = re.match(r"a photo of a (\w+)", text)[1]
        v = np.array([*COLOURS["anchors"][colour], 64]) / 255
        if "-colored " in text:
            return 7 * (v + np.array([0.02, 0, 0.05, 0.1]))
        return 0.2 * (v + np.array([0, 0.06, 0, -0.05])) if text.endswith(" object") else v


@pytest.mark.parametrize("case", [pytest.param(case, id=case["class"]) for case in COLOURS["cases"]])
def test_colours_as_recorded(case):
    index, options = case["id"], case["options"]
    image = Image.fromarray(COLOUR_ARRAYS[f"{index}.image"])
    numbers = range(case["objects"])
    boxes = np.stack([COLOUR_ARRAYS[f"{index}.box.{number}"] for number in numbers])
    masks = None
    if f"{index}.mask.0" in COLOUR_ARRAYS:
        masks = np.stack([COLOUR_ARRAYS[f"{index}.mask.{number}"] for number in numbers])
    settings = {"background": options.get("bgcolor", "#999"), "crop": options.get("crop", "1") == "1"}
    for number in numbers:
        mask = None if masks is None else masks[number]
        cut = object_picture(image, boxes[number], mask, **settings)
        assert np.array_equal(np.array(cut), COLOUR_ARRAYS[f"{index}.crop.{number}"])
    name_colours = ClipColours(RecordedClip(), **settings)
    assert name_colours(image, Objects(boxes, masks), case["class"]) == case["colours"]
    if case["texts_in_order"]:
        assert colour_texts(case["class"]) == case["texts_in_order"]
    if f"{index}.classifier" in COLOUR_ARRAYS:
        classifier = colour_classifier(RecordedClip(), case["class"]).numpy()
        assert classifier == pytest.approx(COLOUR_ARRAYS[f"{index}.classifier"], abs=1e-6)


def test_relations_mirror_each_other():
    random = np.random.default_rng(0)
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    seen = set()
    for _ in range(200):
        corners = random.uniform(0, 100, (2, 2, 2))
        boxes = np.concatenate([np.sort(corners, axis=1).reshape(2, 4), np.ones((2, 1))], axis=1)
        first, second = boxes.astype(np.float32)
        there = relations(first, second, 0.1)
        assert set(relations(second, first, 0.1)) == {opposite[relation] for relation in there}
        seen.add(len(there))
    assert seen == {0, 1, 2}


def test_overlap_counts_a_pixel_more():
    box = np.array([0, 0, 9, 9, 1], np.float32)
    assert overlap(box, box) == 1
    assert overlap(box, box + np.float32([5, 0, 5, 0, 0])) == pytest.approx(50 / 150)
    assert overlap(box, box + np.float32([20, 0, 20, 0, 0])) == 0


def test_the_overall_score_is_the_mean_of_tasks():
    rows = [{"tag": "colors", "correct": True, "metadata": "a"}]
    rows += [{"tag": "counting", "correct": index == 0, "metadata": f"{index // 2}"} for index in range(8)]
    summary = summarize(rows)
    assert summary.overall == (1 + 1 / 8) / 2
    assert summary.correct_images == pytest.approx(2 / 9)
    assert summary.correct_prompts == 2 / 5


def test_folders_that_cannot_be_scored(tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        find_samples(tmp_path / "none")
    with pytest.raises(UserError, match="has no images"):
        find_samples(tmp_path)
    samples = tmp_path / "00000" / "samples"
    samples.mkdir(parents=True)
    with pytest.raises(UserError, match="has no metadata"):
        find_samples(tmp_path)
    metadata = tmp_path / "00000" / "metadata.jsonl"
    metadata.write_text("{")
    with pytest.raises(UserError, match="one JSON object"):
        find_samples(tmp_path)
    metadata.write_text('{"tag": "colors", "include": [], "prompt": "p"}')
    (tmp_path / "notes").mkdir()
    (samples / "grid.png").write_bytes(b"")
    with pytest.raises(UserError, match="has no images"):
        find_samples(tmp_path)
    (samples / "0000.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"cannot read .*0000\.png as an image"):
        list(score_samples(find_samples(tmp_path), Written(), Written(), quiet=True))
    with pytest.raises(UserError, match="at least one image"):
        summarize([])
    with pytest.raises(UserError, match="refers to clause 1"):
        judge(
            {"include": [{"class": "cat", "count": 1, "position": ["above", 1]}]},
            {"cat": Objects(np.ones((1, 5), np.float32))},
            Written().name_colours,
            Thresholds(),
        )
