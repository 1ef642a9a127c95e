"""Reconstruction per scale and with exchanged codes, on a tiny random tokenizer."""

import numpy as np
import pytest
import torch
from PIL import Image

from openhart.errors import UserError
from openhart.evaluation.benchmarks.perturbed import evaluate_perturbed
from openhart.evaluation.benchmarks.reconstruction import evaluate_reconstruction
from openhart.evaluation.benchmarks.scales import evaluate_scales, plot_scales
from openhart.evaluation.metrics.pixels import SSIM_RULES, mean_psnr
from openhart.evaluation.networks.extractors import GradientExtractor
from openhart.image_io import to_bytes
from tests.tiny import tiny_kl, tiny_tokenizer, tiny_vqgan_tokenizer

pytest.importorskip("efficientnet_lite_pytorch")
CODED = {"codes only": {"discrete": True}}


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def images(tokenizer):
    height, width = tokenizer.image_size
    noise = torch.rand(6, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return [(image, {"text": "noise"}) for image in noise]


def values(result, metric):
    return [figure.value for figure in result.figures if figure.name.endswith(metric)]


def test_every_scale_is_measured_and_plotted(tokenizer, images, tmp_path):
    result = evaluate_scales(tokenizer, images, batch_size=4, quiet=True)
    stacked = torch.stack([image for image, _ in images])
    with torch.no_grad():
        features = tokenizer.encode(stacked)
        decoded = [*tokenizer.quantize(features).f_hats, features]
        wanted = [mean_psnr(to_bytes(tokenizer.decode(each)), to_bytes(stacked)) for each in decoded]
    assert values(result, "PSNR") == pytest.approx(wanted, abs=1e-3)
    assert result.figures[0].name == "1 of 4 scales, PSNR"
    for figure in result.figures:
        assert figure.count == 6
        assert figure.interval[0] <= figure.value <= figure.interval[1]
    plot_scales(result, tmp_path / "scales.png")
    assert len(np.unique(np.array(Image.open(tmp_path / "scales.png").convert("L")))) > 2


@pytest.mark.slow
def test_reconstruction_has_every_figure_with_its_interval_and_rule(tokenizer, images):
    extractors = {"FD-gradients": GradientExtractor()}
    result = evaluate_reconstruction(
        tokenizer, images, ssim="skimage", extractors=extractors, batch_size=4, quiet=True
    )
    scales = evaluate_scales(tokenizer, images, quiet=True)
    for kind, same in (("codes only", "4 of 4 scales"), ("complete features", "complete features")):
        for metric in ("PSNR", "FD"):
            wanted = scales.figure(f"{same}, {metric}").value
            assert result.figure(f"{kind}, {metric}").value == pytest.approx(wanted, abs=1e-3)
    stacked = torch.stack([image for image, _ in images])
    with torch.no_grad():
        decoded = to_bytes(tokenizer.decode(tokenizer.encode(stacked)))
    ssim = result.figure("complete features, SSIM")
    assert ssim.value == pytest.approx(SSIM_RULES["skimage"](decoded, to_bytes(stacked)).mean(), abs=1e-4)
    assert ssim.rules["rule"] == "skimage"
    names = {figure.name.partition(", ")[2] for figure in result.figures}
    assert names == {"PSNR", "SSIM", "FD", "FD-Lite2", "KID", "FD-gradients"}
    for figure in result.figures:
        assert figure.count == 6
        assert figure.interval[0] < figure.value < figure.interval[1], figure
    with pytest.raises(UserError, match="SSIM rule must be one of torchmetrics"):
        evaluate_reconstruction(tokenizer, images, ssim="other")


@pytest.mark.parametrize(
    ("model", "version"),
    [
        (tiny_vqgan_tokenizer(scales=[16]), "codes only"),
        (tiny_kl(image_size=(32, 32)), "mean of the latents"),
    ],
)
def test_reconstruction_of_every_family(model, version, images):
    result = evaluate_reconstruction(model, images, quiet=True)
    names = {figure.name for figure in result.figures}
    assert names == {f"{version}, {metric}" for metric in ("PSNR", "SSIM", "FD", "FD-Lite2", "KID")}
    stacked = torch.stack([image for image, _ in images])
    with torch.no_grad():
        wanted = mean_psnr(to_bytes(model(stacked, **CODED.get(version, {})).sample), to_bytes(stacked))
    assert result.figure(f"{version}, PSNR").value == pytest.approx(wanted, abs=1e-3)


@pytest.mark.slow
def test_exchanged_codes(tokenizer, images):
    result = evaluate_perturbed(tokenizer, images, (0.0, 0.5, 1.0), nearest=31, batch_size=4, quiet=True)
    plain = evaluate_scales(tokenizer, images, quiet=True)
    same = plain.figure("4 of 4 scales, PSNR").value
    assert result.figure("0 % exchanged, PSNR").value == pytest.approx(same, abs=1e-3)
    assert result.figure("100 % exchanged, PSNR").value != pytest.approx(same, abs=1e-3)
    assert result.figure("50 % exchanged, FD").rules["nearest"] == 31
    alone = evaluate_perturbed(tokenizer, images, (0.5,), nearest=31, batch_size=1, quiet=True)
    whole = result.figure("50 % exchanged, PSNR").value
    assert alone.figure("50 % exchanged, PSNR").value == pytest.approx(whole, abs=1e-2)


def test_exchanges_that_are_not_possible(tokenizer, images):
    with pytest.raises(UserError, match="between 1 and 31"):
        evaluate_perturbed(tokenizer, images, nearest=32)
    with pytest.raises(UserError, match="between 0 and 1, got 2"):
        evaluate_perturbed(tokenizer, images, [2], nearest=3)
