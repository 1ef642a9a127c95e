"""Silencing other libraries: notices that do not concern users of OpenHART, retries and progress bars."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

NOTICES = {
    "torchao": ("Failed to load", "Skipping import of cpp extensions"),  # kernels for other GPUs
    "torch.utils._pytree": ("register_constant",),
    "diffusers.quantizers.torchao.torchao_quantizer": ("Unable to import `torchao`",),
    "diffusers.models.modeling_utils": ("kept in float32: []",),  # the list of modules is empty
}
"""Parts of messages that are not printed, by the name of the logger."""

LIBRARIES = ("transformers", "diffusers", "huggingface_hub", "httpx", "urllib3", "filelock")


def filter_notices() -> None:
    """Suppress the messages of :data:`NOTICES`."""
    for name, notices in NOTICES.items():
        logging.getLogger(name).addFilter(_PhraseFilter(notices))


class _PhraseFilter(logging.Filter):
    """Suppresses messages that contain one of several phrases."""

    def __init__(self, phrases: tuple[str, ...]) -> None:
        super().__init__()
        self.phrases = phrases

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return not any(phrase in message for phrase in self.phrases)


@contextmanager
def quiet_loggers() -> Iterator[None]:
    """Suppress messages of the libraries within a block, because OpenHART reports failures itself."""
    levels = {name: logging.getLogger(name).level for name in LIBRARIES}
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """As :func:`quiet_loggers`, and without the progress bars of diffusers and transformers."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    bars = [each for each in (diffusers_logging, transformers_logging) if each.is_progress_bar_enabled()]
    for library in bars:
        library.disable_progress_bar()
    try:
        with quiet_loggers():
            yield
    finally:
        for library in bars:
            library.enable_progress_bar()
