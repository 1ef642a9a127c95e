"""Nothing in a file runs: not in a model, an encoder, an adapter, a corpus or a checkpoint to convert."""

import json
import shutil
import sys

import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from openhart.cli import main
from openhart.conditioning.text import load_text_encoder
from openhart.conversion.hart import convert_hart
from openhart.conversion.var import convert_var
from openhart.data import open_dataset
from openhart.errors import UserError
from openhart.lora import FILE as LORA_FILE
from openhart.lora import add_lora, load_lora, save_lora
from openhart.model_files import load_image_tokenizer
from openhart.pipelines.hart import HartPipeline
from openhart.tokenizer.model import HybridTokenizer
from tests.data.shard_files import shard_bytes
from tests.hostile import pickled, python_code, saved_by_torch
from tests.parity.conftest import HART, VAR
from tests.tiny import tiny_transformer

PARTS = ("image_tokenizer", "transformer", "residual_head")
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def mark(tmp_path):
    """The file that harm would write; no test leaves it."""
    path = tmp_path / "harm"
    yield path
    assert not path.exists()


@pytest.fixture
def model(text_model, tmp_path):
    return shutil.copytree(text_model, tmp_path / "model")


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refused(folder, message, **arguments):
    with pytest.raises(UserError, match=message) as caught:
        HartPipeline.from_pretrained(folder, **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("ending", ["bin", "pt", "pth", "ckpt", "pkl"])
def test_a_pickle_in_place_of_weights_is_not_opened(model, mark, part, ending):
    (model / part / WEIGHTS).unlink()
    saved_by_torch(mark, model / part / f"diffusion_pytorch_model.{ending}")
    refused(model, rf"{part} contains diffusion_pytorch_model.{ending}, a pickle.*convert it to safetensors")
    with pytest.raises(UserError, match="a pickle"):
        HybridTokenizer.from_pretrained(model / part)


def test_pickles_beside_weights_and_python_files_are_passed_over(model, mark):
    for folder in (model, *(model / part for part in PARTS)):
        for name in ("diffusion_pytorch_model.bin", "pytorch_model.bin", "notes.pkl"):
            saved_by_torch(mark, folder / name)
        for name in ("pipeline.py", "HartPipeline.py", "__init__.py", "model.py"):
            (folder / name).write_text(python_code(mark))
    HartPipeline.from_pretrained(model)
    load_image_tokenizer(model)
    assert main(["info", str(model)]) == 0


def test_weights_that_are_a_pickle_by_another_name_are_refused(model, mark):
    saved_by_torch(mark, model / "transformer" / WEIGHTS)
    refused(model, "is broken or cut short")


@pytest.mark.parametrize(
    "library", ["harmful", "os", "transformers", "openhart.transformer.model", "..model"]
)
def test_a_model_runs_no_python_file_that_it_brings(model, mark, library):
    for folder in (model, model / "transformer"):
        (folder / f"{library}.py").write_text(python_code(mark))
    kind = "HartTransformer" if "openhart" in library else "Harmful"
    change(model / "model_index.json", transformer=[library, kind])
    refused(model, "only openhart's own classes|contains Python code")


@pytest.mark.parametrize("kind", [["harmful", "Harmful"], ["harmful"], "DiffusionPipeline", None])
def test_a_pipeline_of_another_class_is_refused(model, mark, kind):
    (model / "harmful.py").write_text(python_code(mark))
    change(model / "model_index.json", _class_name=kind)
    refused(model, "must be of the class HartPipeline")


@pytest.mark.parametrize(
    "value",
    [["os", "path"], ["torch", "nn"], ["transformers", "__init__"], ["transformers", "a.b"], ["transformers"],
     ["transformers", 3], "transformers", 7],
)  # fmt: skip
def test_a_text_encoder_comes_from_transformers_alone(model, value):
    change(model / "model_index.json", text_encoder=value)
    refused(model, "text_encoder (may not be|must name)")


def test_a_module_that_is_named_is_not_imported(model, tmp_path, mark, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "harmful_module.py").write_text(python_code(mark))
    for part in ("transformer", "text_encoder", "text_tokenizer"):
        change(model / "model_index.json", **{part: ["harmful_module", "Harmful"]})
        refused(model, "only openhart's own classes")
    assert "harmful_module" not in sys.modules


@pytest.mark.parametrize("arguments", [{"custom_pipeline": "x"}, {"trust_remote_code": True}])
def test_code_cannot_be_asked_for(model, arguments):
    refused(model, "never run", **arguments)


def test_pickles_cannot_be_asked_for(model):
    refused(model, "use_safetensors must be True", use_safetensors=False)
    with pytest.raises(UserError, match="use_safetensors must be True"):
        HybridTokenizer.from_pretrained(model / "image_tokenizer", use_safetensors=False)


@pytest.fixture
def encoder(tmp_path):
    """A tiny BERT with its tokenizer, in a folder."""
    from transformers import BertConfig, BertModel

    source = load_text_encoder()[0]
    folder = tmp_path / "encoder"
    source.save_pretrained(folder)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(source), **size)).save_pretrained(folder)
    return folder


def test_a_text_encoder_in_a_pickle_is_not_opened(encoder, mark):
    assert load_text_encoder(str(encoder))[1].config.hidden_size == 16
    saved_by_torch(mark, encoder / "pytorch_model.bin")
    load_text_encoder(str(encoder))
    (encoder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"pytorch_model\.bin, a pickle.*convert it to safetensors"):
        load_text_encoder(str(encoder))


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("config.json", {"auto_map": {"AutoModel": "harmful.Harmful", "AutoConfig": "harmful.Harmful"}}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["harmful.Harmful", None]}}),
        ("config.json", {"trust_remote_code": True}),
        ("config.json", {"text_config": {"trust_remote_code": True}}),
        ("config.json", {"attn_implementation": "owner/kernel"}),
        ("config.json", {"_attn_implementation_internal": "owner/kernel"}),
        ("config.json", {"attn_implementation": {"": "sdpa", "text": "owner/kernel:run"}}),
    ],
)
def test_a_text_encoder_runs_no_code_of_its_own(encoder, mark, file, values):
    (encoder / "harmful.py").write_text(python_code(mark))
    change(encoder / file, **values)
    with pytest.raises(UserError, match="never run"):
        load_text_encoder(str(encoder))


def test_a_text_encoder_kept_in_a_model_is_looked_at_too(encoder, model, mark):
    for part in ("text_encoder", "text_tokenizer"):
        shutil.copytree(encoder, model / part)
    names = {
        "text_encoder": ["transformers", "BertModel"],
        "text_tokenizer": ["transformers", "AutoTokenizer"],
    }
    change(model / "model_index.json", text_encoder_name=None, **names)
    (model / "text_tokenizer" / "harmful.py").write_text(python_code(mark))
    change(
        model / "text_tokenizer" / "tokenizer_config.json", auto_map={"AutoTokenizer": ["harmful.H", None]}
    )
    refused(model, "never run")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_refused(model, encoder, value):
    path = model / "transformer" / WEIGHTS
    tensors = load_file(path)
    tensors["head.weight"][0, 0] = value
    save_file(tensors, path, metadata={"format": "pt"})
    refused(model, r"transformer are broken: head\.weight has values that are NaN or infinite")
    tensors = load_file(encoder / "model.safetensors")
    tensors["embeddings.LayerNorm.bias"][0] = value
    save_file(tensors, encoder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="NaN or infinite"):
        load_text_encoder(str(encoder))


@pytest.fixture
def adapter(tmp_path):
    pytest.importorskip("peft")

    transformer = tiny_transformer()
    add_lora(transformer, 2, 2.0, ["up", "down"])
    save_lora(transformer, tmp_path / "lora")
    return tmp_path / "lora"


def test_an_adapter_in_a_pickle_is_not_opened(adapter, mark):
    (adapter / LORA_FILE).unlink()
    for name in ("pytorch_lora_weights.bin", "adapter_model.bin"):
        saved_by_torch(mark, adapter / name)
    with pytest.raises(UserError, match=r"adapter_model\.bin, a pickle"):
        load_lora(tiny_transformer(), adapter)


def test_an_adapter_imports_no_module_that_it_names(adapter, mark, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "harmful_core.py").write_text(python_code(mark))
    (adapter / "checksums.json").unlink()
    with safe_open(adapter / LORA_FILE, "pt") as file:
        metadata = file.metadata()
    about = json.loads(metadata["lora_adapter_metadata"])
    about |= {"megatron_config": {}, "megatron_core": "harmful_core"}
    metadata["lora_adapter_metadata"] = json.dumps(about)
    save_file(load_file(adapter / LORA_FILE), adapter / LORA_FILE, metadata=metadata)
    load_lora(tiny_transformer(), adapter)


def test_a_released_checkpoint_is_read_as_data(tmp_path, mark):
    hart = shutil.copytree(HART, tmp_path / "hart")
    saved_by_torch(mark, hart / "llm" / "ema_model.bin")
    with pytest.raises(UserError, match=r"ema_model\.bin is damaged, or contains more than weights"):
        convert_hart(hart, tmp_path / "out")
    (hart / "llm" / "ema_model.bin").write_bytes(pickled(mark))
    with pytest.raises(UserError, match="more than weights"):
        convert_hart(hart, tmp_path / "out")
    saved_by_torch(mark, tmp_path / "var.pth")
    for files in ((VAR / "vae.pth", tmp_path / "var.pth"), (tmp_path / "var.pth", VAR / "var.pth")):
        with pytest.raises(UserError, match="more than weights"):
            convert_var(*files, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pickles_in_a_shard_stay_bytes(tmp_path, mark):
    image = tmp_path / "a.png"
    Image.new("RGB", (16, 16), "red").save(image)
    more = [(f"a.{ending}", pickled(mark)) for ending in ("pkl", "pickle", "pyd", "pth", "npy", "npz", "ten")]
    (tmp_path / "a.tar").write_bytes(shard_bytes([("a.png", image.read_bytes()), ("a.txt", b"red"), *more]))
    ((_, sample),) = open_dataset(str(tmp_path / "a.tar"), (16, 16))
    assert sample.fields["text"] == "red"
    assert set(sample.fields) == {"text", "file_name"}


def test_an_image_is_opened_by_no_program(tmp_path, mark):
    """A PostScript file would start an interpreter, whatever it is called."""
    (tmp_path / "corpus").mkdir()
    code = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n({mark}) (w) file closefile\nshowpage\n"
    for name in ("a.png", "b.eps"):
        (tmp_path / "corpus" / name).write_text(code)
    lines = [json.dumps({"file_name": name, "text": "a"}) for name in ("a.png", "b.eps")]
    (tmp_path / "corpus" / "metadata.jsonl").write_text("\n".join(lines))
    dataset = open_dataset(str(tmp_path / "corpus"), (16, 16))
    for index in range(2):
        with pytest.raises(UserError, match="format is unknown"):
            dataset[index]


def test_a_data_set_runs_no_script(tmp_path, mark, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "things"
    folder.mkdir()
    (folder / "things.py").write_text(python_code(mark))
    (folder / "a.pkl").write_bytes(pickled(mark))
    for address in (f"hf:{folder}", f"hf:{folder / 'things.py'}"):
        with pytest.raises(UserError, match="cannot load data set"):
            open_dataset(address, (16, 16))
