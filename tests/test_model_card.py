"""The model card of a saved pipeline, and models on the Hugging Face hub, with a stand-in for the network."""

import shutil
from pathlib import Path

import pytest
from diffusers import DiffusionPipeline
from huggingface_hub import HfApi, ModelCard, RepoUrl

from openhart.model_files import read_licence


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder that stands for the repositories of the hub, as far as uploads are concerned."""
    root = tmp_path / "hub"

    def create_repo(self, repo_id, private=None, exist_ok=False):
        (root / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        return RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(self, repo_id, folder_path, commit_message, create_pr, ignore_patterns):
        ignored = shutil.ignore_patterns(*(ignore_patterns or []))
        shutil.copytree(folder_path, root / repo_id, dirs_exist_ok=True, ignore=ignored)
        return "address of the commit"

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    monkeypatch.setattr(HfApi, "file_exists", lambda self, name, file: (root / name / file).is_file())
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    return root


def test_a_card_describes_the_saved_model(text_model):
    card = ModelCard.load(text_model / "README.md")
    assert card.data.library_name == "diffusers"
    assert card.data.pipeline_tag == "text-to-image"
    assert "hart" in card.data.tags
    assert "HartPipeline.from_pretrained" in card.text
    assert "| `guidance_scale` | `3.0` |" in card.text
    for part in ("image_tokenizer", "transformer", "residual_head"):
        assert f"| {part} |" in card.text
    assert "{{" not in card.content
    assert "{%" not in card.content


def test_the_example_of_a_class_conditional_model_names_a_class(label_model, mar_pipeline, tmp_path):
    mar_pipeline.save_pretrained(tmp_path)
    for folder in (label_model, tmp_path):
        card = ModelCard.load(folder / "README.md")
        assert "class_labels=0" in card.text
        assert card.data.pipeline_tag == "unconditional-image-generation"
    assert "MarPipeline.from_pretrained" in card.text


def test_a_card_that_exists_stays(label_pipeline, tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\nmine")
    label_pipeline.save_pretrained(tmp_path)
    assert read_licence(tmp_path) == "mit"


def test_a_pushed_model_opens_with_diffusers(hub, text_pipeline):
    assert text_pipeline.push_to_hub("someone/tiny") == "address of the commit"
    folder = hub / "someone" / "tiny"
    loaded = DiffusionPipeline.from_pretrained(
        str(folder), custom_pipeline="pipeline", trust_remote_code=True
    )
    assert loaded.config.sampling == text_pipeline.config.sampling
    assert ModelCard.load(folder / "README.md").data.library_name == "diffusers"


def test_pushing_again_leaves_the_card_of_the_repository(hub, label_pipeline):
    card = Path(hub, "someone", "tiny", "README.md")
    label_pipeline.push_to_hub("someone/tiny")
    card.write_text("mine")
    label_pipeline.push_to_hub("someone/tiny")
    assert card.read_text() == "mine"
