"""Fetching from the Hugging Face hub: weights as safetensors and texts alone, failures as one sentence."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openhart.errors import UserError, reason
from openhart.quiet import quiet_loggers

FETCHED = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "README.md")
EXPLAINED = {
    "GatedRepoError": "its owner must grant access first, and then a token is needed",
    "RepositoryNotFoundError": "the hub has none of that name, or it is private and a token is needed",
    "RevisionNotFoundError": "the hub has it, but not this revision",
    "LocalEntryNotFoundError": "the hub cannot be reached, and no copy is in the cache",
    "OfflineModeIsEnabled": "the hub is switched off (HF_HUB_OFFLINE), and no copy is in the cache",
    "ConnectionError": "the hub cannot be reached, and no copy is in the cache",
    "ConnectError": "the hub cannot be reached, and no copy is in the cache",
}


def fetch(name: str, hub: Mapping[str, Any]) -> Path:
    """The folder of a repository, downloaded unless it is in the cache.

    Args:
        name: ``owner/name``.
        hub: ``revision``, ``token``, ``cache_dir``, ``local_files_only``, ``force_download``.

    Raises:
        UserError: the hub does not give it, with the reason as a part of a sentence.
    """
    from huggingface_hub import snapshot_download

    try:
        with quiet_loggers():
            return Path(snapshot_download(name, allow_patterns=list(FETCHED), **hub))
    except Exception as error:  # of the hub, of its HTTP library, or of the disk
        kinds = (kind.__name__ for kind in type(error).__mro__)
        explained = next((EXPLAINED[kind] for kind in kinds if kind in EXPLAINED), None)
        raise UserError(explained or reason(error)) from error
