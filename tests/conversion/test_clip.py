"""CLIP weights of open_clip, converted: the same features, and one sentence for what does not fit."""

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from openhart.evaluation.networks.clip import TransformersClip
from tests.evaluation.command_line import fails, run
from tests.evaluation.tiny_networks import save_clip

WIDTH, DIM, SIDE, PATCH, HEADS = 16, 8, 32, 16, 2


class Block(nn.Module):
    """A pre-norm block with the attribute names of open_clip."""

    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(WIDTH, 32), "c_proj": nn.Linear(32, WIDTH)})

    def forward(self, x, mask=None):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        hidden = self.mlp["c_fc"](self.ln_2(x))
        return x + self.mlp["c_proj"](hidden * torch.sigmoid(1.702 * hidden))  # the base's quick GELU


def blocks():
    return nn.ModuleDict({"resblocks": nn.ModuleList([Block()])})


class Visual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(WIDTH))
        self.positional_embedding = nn.Parameter(torch.randn((SIDE // PATCH) ** 2 + 1, WIDTH))
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.transformer, self.proj = blocks(), nn.Parameter(torch.randn(WIDTH, DIM))

    def forward(self, images):
        patches = self.conv1(images).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(images), 1, WIDTH)
        x = self.ln_pre(torch.cat([first, patches], dim=1) + self.positional_embedding)
        return self.ln_post(self.transformer["resblocks"][0](x)[:, 0]) @ self.proj


class OpenClip(nn.Module):
    """The architecture of open_clip in a few lines, with its names."""

    def __init__(self, words):
        super().__init__()
        self.visual, self.transformer = Visual(), blocks()
        self.token_embedding = nn.Embedding(words, WIDTH)
        self.positional_embedding = nn.Parameter(torch.randn(77, WIDTH))
        self.ln_final = nn.LayerNorm(WIDTH)
        self.text_projection = nn.Parameter(torch.randn(WIDTH, DIM))
        self.logit_scale = nn.Parameter(torch.tensor(4.6))

    def text(self, tokens):
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        mask = torch.full((tokens.shape[1],) * 2, -torch.inf).triu(1)
        x = self.ln_final(self.transformer["resblocks"][0](x, mask))
        return x[torch.arange(len(x)), tokens.argmax(dim=1)] @ self.text_projection


@pytest.fixture
def base(tmp_path):
    return save_clip(tmp_path / "base")


@torch.no_grad()
def test_converted_weights_give_the_same_features(capsys, base, tmp_path):
    torch.manual_seed(1)
    words = TransformersClip(str(base)).model.config.text_config.vocab_size
    model = OpenClip(words).eval()
    torch.save({"state_dict": model.half().state_dict(), "epoch": 3}, tmp_path / "weights.pt")
    model = model.float()
    command = ("convert", "clip", tmp_path / "weights.pt", tmp_path / "out", "--base", base)
    code, stdout, stderr = run(capsys, *command)
    assert (code, stdout.strip()) == (0, str(tmp_path / "out")), stderr
    converted = TransformersClip(str(tmp_path / "out"))
    image = Image.radial_gradient("L").convert("RGB").resize((SIDE, SIDE))
    pixels = converted.processor(images=[image], return_tensors="pt")["pixel_values"]
    assert torch.allclose(converted.image_features([image]), model.visual(pixels), atol=1e-4)
    tokens = converted.tokenizer(["a cat"], return_tensors="pt")["input_ids"]
    wanted = model.text(tokens)
    assert torch.allclose(converted.text_features(["a cat"]), wanted, atol=1e-4)
    assert not torch.allclose(F.normalize(wanted), F.normalize(model.text(tokens[:, [0, 2, -1]])), atol=1e-2)
    fails(capsys, 1, "exists already", *command)


def test_weights_that_do_not_fit_are_named(capsys, base, tmp_path):
    state = OpenClip(190).state_dict()

    def refused(message, **changes):
        torch.save(state | changes, tmp_path / "weights.pt")
        command = ("convert", "clip", tmp_path / "weights.pt", tmp_path / "out", "--base", base)
        fails(capsys, 1, message, *command)
        assert not (tmp_path / "out").exists()

    refused("logit_scale has the shape 2 there and of a number here", logit_scale=torch.zeros(2))
    refused("head.weight is no tensor of a CLIP model", **{"head.weight": torch.zeros(2)})
    fails(capsys, 1, "is missing", "convert", "clip", tmp_path / "none.pt", tmp_path / "out", "--base", base)
    command = ("convert", "clip", tmp_path / "weights.pt", tmp_path / "out", "--base")
    fails(capsys, 1, "cannot read", *command, tmp_path / "none")
