"""Downloading models from the Hugging Face hub: safetensors and text files only."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openhart.errors import UserError, reason
from openhart.quiet import quiet_loggers

DOWNLOADED_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "README.md")
EXPLANATIONS = {
    "GatedRepoError": "its owner must grant access on the hub first, and then a token is needed",
    "RepositoryNotFoundError": "the hub has no model of this name, or it is private and a token is needed",
    "RevisionNotFoundError": "the hub has the model, but not this revision",
    "LocalEntryNotFoundError": "the hub cannot be reached, and no copy is in the cache",
    "OfflineModeIsEnabled": "downloads are disabled (HF_HUB_OFFLINE), and no copy is in the cache",
    "ConnectionError": "the hub cannot be reached, and no copy is in the cache",
    "ConnectError": "the hub cannot be reached, and no copy is in the cache",
}


def fetch(name: str, hub: Mapping[str, Any]) -> Path:
    """Download a repository of the hub, unless it is in the cache, and return its local folder.

    Args:
        name: hub id ``owner/name``.
        hub: arguments of the download: ``revision``, ``token``, ``cache_dir``, ``local_files_only``,
            ``force_download``.

    Raises:
        UserError: if the repository cannot be downloaded; the message is the reason, as part of a sentence.
    """
    from huggingface_hub import snapshot_download

    try:
        with quiet_loggers():
            return Path(snapshot_download(name, allow_patterns=list(DOWNLOADED_FILES), **hub))
    except Exception as error:  # raised by the hub library, its HTTP library, or the file system
        kinds = (kind.__name__ for kind in type(error).__mro__)
        explanation = next((EXPLANATIONS[kind] for kind in kinds if kind in EXPLANATIONS), None)
        raise UserError(explanation or reason(error)) from error
