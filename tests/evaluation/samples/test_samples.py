"""Sample folders: layouts, resuming, several processes, and refusal of other settings."""

import json
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from openhart.errors import UserError
from openhart.evaluation.benchmarks.dpg import crops
from openhart.evaluation.benchmarks.geneval import find_samples
from openhart.evaluation.samples.layouts import PROMPT_PLANS, plan_dpg, plan_geneval, plan_imagenet, plan_mjhq
from openhart.evaluation.samples.make import Output, Processes, fill_folder, make_samples

PROMPTS = [
    {"tag": "colors", "include": [{"class": "apple", "count": 1, "color": "red"}], "prompt": "a red apple"},
    {"tag": "counting", "include": [{"class": "cat", "count": 2}], "prompt": "two cats"},
    {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a dog"},
]


class StoppedError(Exception):
    """Stands for a kill."""


class Painter:
    """Makes images that depend on condition, seed and place in the batch; stops after some calls."""

    def __init__(self, calls=None):
        self.calls, self.made = calls, []

    def __call__(self, conditions, seeds):
        if self.calls is not None and len(self.made) == self.calls:
            raise StoppedError
        self.made.append(list(zip(conditions, seeds, strict=True)))
        shades = [
            (hash_of(condition), seed % 256, place) for place, (condition, seed) in enumerate(self.made[-1])
        ]
        return np.array(shades, np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)


def hash_of(condition):
    return sum(str(condition).encode()) % 256


@pytest.fixture
def geneval(tmp_path):
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS))
    return plan_geneval(path)


def fill(folder, plan, painter, processes=None, file_type="png"):
    record = {"model": "painter", "count": plan.count}
    fill_folder(folder, plan, record, painter, 4, file_type, processes or Processes(), quiet=True)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_geneval_s_layout_is_what_its_evaluator_reads(geneval, tmp_path):
    painter = Painter()
    fill(tmp_path / "out", geneval, painter)
    samples = find_samples(tmp_path / "out")
    assert [sample.metadata["prompt"] for sample in samples] == [
        p["prompt"] for p in PROMPTS for _ in range(4)
    ]
    assert painter.made[1] == [("two cats", seed) for seed in (42, 43, 44, 45)]


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_a_stopped_run_resumes_to_identical_files(geneval, tmp_path, calls):
    fill(tmp_path / "whole", geneval, Painter())
    with pytest.raises(StoppedError):
        fill(tmp_path / "resumed", geneval, Painter(calls))
    half_written = tmp_path / "resumed" / "00000" / "samples" / ".00000-0123abcd.png"
    half_written.parent.mkdir(exist_ok=True)
    half_written.write_bytes(b"half")
    lost = tmp_path / "resumed" / "00000" / "samples" / "00002.png"
    lost.unlink(missing_ok=True)
    rest = Painter()
    fill(tmp_path / "resumed", geneval, rest)
    assert contents(tmp_path / "resumed") == contents(tmp_path / "whole")
    assert len(rest.made) == 3 - max(calls - 1, 0)
    again = Painter()
    fill(tmp_path / "resumed", geneval, again)
    assert again.made == []


def test_several_processes_make_what_one_makes(geneval, tmp_path):
    fill(tmp_path / "one", geneval, Painter())
    painters = [Painter(), Painter()]
    for index, painter in enumerate(painters):
        fill(tmp_path / "two", geneval, painter, Processes(index, 2))
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert [len(painter.made) for painter in painters] == [2, 1]


def test_dpg_makes_grids_that_its_scorer_cuts(tmp_path):
    (tmp_path / "prompts").mkdir()
    for name in ("b1", "a2"):
        (tmp_path / "prompts" / f"{name}.txt").write_text(f"prompt of {name}\n")
    painter = Painter()
    fill(tmp_path / "out", plan_dpg(tmp_path / "prompts"), painter)
    grid = Image.open(tmp_path / "out" / "b1.png")
    assert painter.made[1] == [("prompt of b1", seed) for seed in range(4)]
    assert [crop.getpixel((0, 0))[1] for crop in crops(grid, 4, 4)] == [0, 1, 2, 3]


def test_mjhq_and_imagenet_layouts(tmp_path):
    entries = {
        "aa": {"category": "art", "prompt": "a painting"},
        "bb": {"category": "food", "prompt": "a soup"},
    }
    (tmp_path / "meta_data.json").write_text(json.dumps(entries))
    plan = plan_mjhq(tmp_path / "meta_data.json", seed=5)
    painter = Painter()
    fill(tmp_path / "mjhq", plan, painter, file_type="jpg")
    assert Image.open(tmp_path / "mjhq" / "bb.jpg").format == "JPEG"
    assert painter.made == [[("a painting", 5), ("a soup", 6)]]
    painter = Painter()
    fill(tmp_path / "imagenet", plan_imagenet(3, images_per_class=2), painter)
    assert [condition for batch in painter.made for condition, _ in batch] == [0, 0, 1, 1, 2, 2]
    assert sorted(path.name for path in (tmp_path / "imagenet").glob("*.png"))[-1] == "000005.png"


def test_a_real_model_is_recorded_and_other_settings_are_refused(text_pipeline, geneval, tmp_path):
    folder, call = tmp_path / "out", {"guidance_scale": 3.0}

    def make(call=call, output=None):
        make_samples(text_pipeline, "tiny", geneval, folder, output, quiet=True, call=call)

    make()
    record = json.loads((folder / "samples.json").read_text())
    assert record["sampling"]["guidance_scale"] == 3
    assert record["sampling"]["top_k"] == 16
    assert record["precision"]["transformer"] == "float32"
    assert len(record["weights_sha256"]) == len(record["prompts"]["sha256"]) == 64
    assert record["images"] == len(find_samples(folder)) == 12
    before = contents(folder)
    make()
    assert contents(folder) == before
    with pytest.raises(
        UserError, match=r"other settings \(sampling.guidance_scale is 3.0 there and 2.0 now\)"
    ):
        make({"guidance_scale": 2.0})
    with pytest.raises(UserError, match="rounding is 'round' there and 'truncate' now"):
        make(output=Output(rounding="truncate"))
    with changed_weights(text_pipeline), pytest.raises(UserError, match="weights_sha256"):
        make()
    assert contents(folder) == before


@contextmanager
def changed_weights(pipeline):
    parameter = next(pipeline.transformer.parameters())
    before = parameter.detach().clone()
    parameter.data += 1
    yield
    parameter.data.copy_(before)


def test_a_model_of_classes_is_sampled(label_pipeline, tmp_path):
    make_samples(label_pipeline, "tiny", plan_imagenet(2, images_per_class=2), tmp_path / "out", quiet=True)
    assert len(list((tmp_path / "out").glob("*.png"))) == 4


def test_prompts_and_folders_that_cannot_be_used(geneval, tmp_path):
    with pytest.raises(UserError, match="is not empty and has no samples"):
        fill(tmp_path, geneval, Painter())
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "samples.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        fill(tmp_path / "damaged", geneval, Painter())
    for plan in PROMPT_PLANS.values():
        with pytest.raises(UserError, match="there is no f"):
            plan(tmp_path / "none")
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a ball"}\n')
    with pytest.raises(UserError, match="tag, include and prompt"):
        plan_geneval(tmp_path / "bad.jsonl")
    (tmp_path / "bad.json").write_text('{"../up": {"category": "a", "prompt": "x"}}')
    with pytest.raises(UserError, match="cannot be a file name"):
        plan_mjhq(tmp_path / "bad.json")
    with pytest.raises(UserError, match="must be png files, got jpg"):
        make_samples(None, "x", geneval, tmp_path / "new", Output(file_type="jpg"))
