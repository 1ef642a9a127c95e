import pytest
import torch
from transformers import BertConfig, BertModel, Qwen2Config, Qwen2Model, T5Config, T5Model

from openhart.conditioning.text import (
    TextConditionEncoder,
    language_tower,
    load_text_encoder,
)
from openhart.errors import UserError


@pytest.fixture(scope="module")
def minilm():
    return load_text_encoder()


def encode(tokenizer, encoder, prompts, tokens, instruction="", **options):
    dim = encoder.config.hidden_size
    return TextConditionEncoder(tokenizer, encoder, tokens, dim, instruction).encode(prompts, **options)


def tiny_encoder(kind, vocabulary):
    torch.manual_seed(0)
    if kind == "bert":
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        return BertModel(BertConfig(vocab_size=vocabulary, intermediate_size=16, **sizes))
    if kind == "t5":
        return T5Model(
            T5Config(vocab_size=vocabulary, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
        )
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return Qwen2Model(
        Qwen2Config(vocab_size=vocabulary, intermediate_size=16, num_key_value_heads=2, **sizes)
    )


@pytest.mark.parametrize("kind", ["bert", "t5", "qwen2"])
def test_any_text_encoder_of_transformers(minilm, kind):
    tokenizer = minilm[0]
    encoder = language_tower(tiny_encoder(kind, len(tokenizer)))
    context, mask = encode(tokenizer, encoder.eval(), ["a cat", "a red apple"], 7)
    assert context.shape == (2, 7, 16)
    assert mask.sum(dim=1).tolist() == [4, 5]


def test_the_language_tower_of_a_model_that_sees(minilm):
    from transformers import Qwen2VLConfig, Qwen2VLModel

    text = {
        "vocab_size": len(minilm[0]),
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4},
    }
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "patch_size": 4}
    model = Qwen2VLModel(Qwen2VLConfig(text_config=text, vision_config=vision)).eval()
    tower = language_tower(model)
    assert not any("visual" in name for name, _ in tower.named_parameters())
    context, _ = encode(minilm[0], tower, ["a cat"], 6, instruction="Describe: ")
    assert context.shape == (1, 6, 32)


def test_meaning_is_kept(minilm):
    context, mask = encode(*minilm, ["a puppy", "a young dog", "a tax form"], 12)
    weights = mask[..., None]
    pooled = torch.nn.functional.normalize((context * weights).sum(1) / weights.sum(1), dim=-1)
    assert pooled[0] @ pooled[1] > pooled[0] @ pooled[2] + 0.2


def test_the_instruction_is_read_but_its_positions_are_cut_off(minilm):
    plain, plain_mask = encode(*minilm, ["a cat"], 8)
    told, told_mask = encode(*minilm, ["a cat"], 8, instruction="Draw in oil: ")
    assert torch.equal(plain_mask, told_mask)
    assert plain.shape == told.shape
    assert not torch.allclose(plain[:, :4], told[:, :4], atol=1e-2)


def test_a_long_prompt_is_cut_with_a_warning(minilm):
    long = "a very " * 30 + "big cat"
    with pytest.warns(UserWarning, match="prompt was cut to its first 8 tokens"):
        context, mask = encode(*minilm, [long], 8)
    assert context.shape[1] == 8
    assert mask.all()


def test_an_empty_prompt_is_the_empty_condition(minilm):
    context, mask = encode(*minilm, ["", "a cat"], 8)
    assert context[0].abs().max() == 0
    assert mask[0].tolist() == [True] + [False] * 7
    assert context[1].abs().max() > 0


def test_an_encoder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match="there is no text encoder"):
        load_text_encoder(str(tmp_path / "none"))
