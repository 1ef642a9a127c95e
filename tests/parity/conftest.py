from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from openhart.conversion.hart import convert_hart
from openhart.conversion.var import convert_var
from openhart.pipelines.hart import HartPipeline

RECORDED = Path(__file__).parent
HART = RECORDED / "hart-t2i-tiny"
VAR = RECORDED / "var-c2i-tiny"
MAR = RECORDED / "mar-tiny"


@pytest.fixture(scope="package")
def hart(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hart") / "model"
    convert_hart(HART, folder)
    return HartPipeline.from_pretrained(folder)


@pytest.fixture(scope="package")
def var(tmp_path_factory):
    folder = tmp_path_factory.mktemp("var") / "model"
    convert_var(VAR / "vae.pth", VAR / "var.pth", folder)
    return HartPipeline.from_pretrained(folder)


@pytest.fixture(scope="package")
def recorded():
    files = {
        "hart tokenizer": HART / "tokenizer_case.safetensors",
        "hart training": HART / "training_case.safetensors",
        "hart sampling": HART / "sampling_case.safetensors",
        "var training": VAR / "tokenizer_and_training_case.safetensors",
        "var sampling": VAR / "sampling_case.safetensors",
    }
    return {name: load_file(path) for name, path in files.items()}


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield
