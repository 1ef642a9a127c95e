import json
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from openhart.errors import UserError
from openhart.evaluation.benchmarks.imagenet import evaluate_adm, evaluate_mar
from openhart.evaluation.networks.inception import InceptionExtractor
from openhart.evaluation.npz_files import read_batch_file, write_sample_batch
from openhart.evaluation.result import Figure, Result, check_comparable, read_result, write_result
from tests.evaluation.recorded import arrays, told

ARRAYS = {
    name.removeprefix("whole_program."): value
    for name, value in arrays("distance_cases").items()
    if name.startswith("whole_program.")
}
STATISTICS = ("mu", "sigma", "mu_s", "sigma_s")


class RecordedNetwork:
    """The made-up network that the recording was taken with."""

    name = "Inception 2015-12-05, made up"
    softmax_weight = ARRAYS["softmax_weight"]

    def __call__(self, images):
        values = (images.astype(np.float32) / 128 - 1).reshape(len(images), -1)
        spatial = (values @ ARRAYS["spatial_weight"]).reshape(len(images), 3, 3, 12)[..., :7]
        return np.maximum(values @ ARRAYS["pool_weight"], 0), spatial.reshape(len(images), -1)


@pytest.fixture
def files(tmp_path):
    np.savez(tmp_path / "sample.npz", ARRAYS["sample"], np.zeros(len(ARRAYS["sample"]), np.int64))
    np.savez(tmp_path / "images.npz", arr_0=ARRAYS["reference"])
    statistics = {name: ARRAYS[name] for name in STATISTICS}
    np.savez(tmp_path / "labeled.npz", arr_0=ARRAYS["reference"], **statistics)
    np.savez(tmp_path / "stats.npz", mu=ARRAYS["mu"], sigma=ARRAYS["sigma"])
    return tmp_path


@pytest.mark.parametrize(
    ("reference", "key"), [("images.npz", "without_statistics"), ("labeled.npz", "with_statistics")]
)
def test_the_whole_program_as_recorded(files, reference, key):
    sample = read_batch_file(files / "sample.npz")
    result = evaluate_adm(read_batch_file(files / reference), sample, RecordedNetwork(), quiet=True)
    wanted = told("distance_cases")["whole_program"][key]
    names = {"FID": "fid", "sFID": "sfid", "IS": "inception_score"}
    for name in ("FID", "sFID", "IS", "precision", "recall"):
        figure = result.figure(name)
        assert figure.value == pytest.approx(wanted[names.get(name, name)], rel=1e-5), name
        assert figure.label == f"{name}@80"
        assert figure.interval[0] <= figure.value <= figure.interval[1], name


def test_the_spatial_features_as_recorded():
    _, spatial = RecordedNetwork()(ARRAYS["sample"][:1])
    assert spatial[0] == pytest.approx(ARRAYS["spatial_features_of_first_sample"].ravel(), abs=1e-4)


def test_pooled_statistics_alone_give_no_spatial_distance(files):
    sample = read_batch_file(files / "sample.npz")
    np.savez(files / "pool.npz", arr_0=ARRAYS["reference"], mu=ARRAYS["mu"], sigma=ARRAYS["sigma"])
    result = evaluate_adm(read_batch_file(files / "pool.npz"), sample, RecordedNetwork(), quiet=True)
    wanted = told("distance_cases")["whole_program"]["with_statistics"]["fid"]
    assert result.figure("FID").value == pytest.approx(wanted)
    with pytest.raises(UserError, match="no figure sFID"):
        result.figure("sFID")


def test_mar_needs_statistics_only(files):
    statistics = read_batch_file(files / "stats.npz").pool
    result = evaluate_mar(statistics, read_batch_file(files / "sample.npz"), RecordedNetwork(), quiet=True)
    wanted = told("distance_cases")["whole_program"]["with_statistics"]["fid"]
    assert result.figure("FID").value == pytest.approx(wanted)
    assert {figure.name for figure in result.figures} == {"FID", "IS"}


def test_a_sample_batch_is_shuffled_and_whole(tmp_path):
    paths = [tmp_path / f"{index:03}.png" for index in range(40)]
    for index, path in enumerate(paths):
        Image.new("RGB", (4, 3), (index, 0, 0)).save(path)
    write_sample_batch(paths, tmp_path / "a.npz", Image.open, seed=1)
    with np.load(tmp_path / "a.npz") as stored:
        images = stored["arr_0"]
    assert images.shape == (40, 3, 4, 3)
    shades = images[:, 0, 0, 0].tolist()
    assert shades != sorted(shades) == list(range(40))
    batch = read_batch_file(tmp_path / "a.npz")
    assert np.array_equal(np.concatenate(list(batch.batches(7))), images)
    write_sample_batch(paths, tmp_path / "b.npz", Image.open, seed=None)
    assert np.load(tmp_path / "b.npz")["arr_0"][:, 0, 0, 0].tolist() == list(range(40))


def test_files_that_cannot_be_scored(files, tmp_path):
    def fails(message, **stored):
        np.savez(tmp_path / "bad.npz", **stored)
        with pytest.raises(UserError, match=message):
            read_batch_file(tmp_path / "bad.npz")

    fails("it contains images", images=ARRAYS["sample"])
    fails("must be uint8", arr_0=ARRAYS["sample"].astype(float))
    fails(r"must be uint8 of shape \(N, H, W, 3\)", arr_0=ARRAYS["sample"][0])
    fails("sigma of shape", mu=ARRAYS["mu"], sigma=ARRAYS["sigma"][:3])
    with pytest.raises(UserError, match="there is no file"):
        read_batch_file(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(UserError, match="cannot read"):
        read_batch_file(tmp_path / "text.npz")
    with pytest.raises(UserError, match="statistics but no images"):
        evaluate_adm(
            read_batch_file(files / "stats.npz"), read_batch_file(files / "sample.npz"), RecordedNetwork()
        )
    for name, size in (("a.png", (3, 3)), ("b.png", (4, 3))):
        Image.new("RGB", size).save(tmp_path / name)
    with pytest.raises(UserError, match="one size"):
        write_sample_batch([tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "c.npz", Image.open)
    assert not (tmp_path / "c.npz").exists()


@pytest.mark.skipif(find_spec("torch_fidelity") is not None, reason="torch-fidelity is installed")
def test_a_missing_inception_is_named_in_one_sentence():
    with pytest.raises(UserError, match="pip install torch-fidelity"):
        InceptionExtractor()


def test_inception_weights_that_are_missing_are_named(tmp_path):
    pytest.importorskip("torch_fidelity")
    with pytest.raises(UserError, match=r"there is no file .*none\.pth: give the path of torch-fidelity's"):
        InceptionExtractor(tmp_path / "none.pth")


def test_a_result_is_read_as_it_was_written(tmp_path):
    figure = Figure("FID", 3.5, 5000, (3.1, 4.0), "a network", {"resize": "clean"})
    result = Result("imagenet", (figure,), {"model": "m"}, {"note": 1})
    write_result(result, tmp_path / "r.json")
    assert read_result(tmp_path / "r.json") == result
    assert json.loads((tmp_path / "r.json").read_text())["figures"][0]["label"] == "FID@5k"
    (tmp_path / "r.json").write_text("{}")
    with pytest.raises(UserError, match="is not a result"):
        read_result(tmp_path / "r.json")
    with pytest.raises(UserError, match="there is no result"):
        read_result(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 4000}, "count 5000 and 4000"),
        ({"extractor": "other"}, "extractor a network and other"),
        ({"rules": {"resize": "clean"}}, "resize is round"),
        ({"name": "KID"}, "name FID and KID"),
    ],
)
def test_figures_made_otherwise_are_not_compared(change, message):
    made = {
        "name": "FID",
        "value": 1.0,
        "count": 5000,
        "extractor": "a network",
        "rules": {"resize": "round"},
    }
    check_comparable([Figure(**made), Figure(**made | {"value": 2.0})])
    with pytest.raises(UserError, match=message):
        check_comparable([Figure(**made), Figure(**made | change)])
