"""What other libraries print: notices that mean nothing here, retries and progress bars."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

NOTICES = {
    "torchao": ("Failed to load", "Skipping import of cpp extensions"),  # kernels for other GPUs
    "torch.utils._pytree": ("register_constant",),
    "diffusers.quantizers.torchao.torchao_quantizer": ("Unable to import `torchao`",),
    "diffusers.models.modeling_utils": ("kept in float32: []",),  # which names no module
}


LIBRARIES = ("transformers", "diffusers", "huggingface_hub", "httpx", "urllib3", "filelock")


def filter_notices() -> None:
    """Let no logger print the notices listed here."""
    for name, notices in NOTICES.items():
        logging.getLogger(name).addFilter(_Without(notices))


class _Without(logging.Filter):
    """Drops the messages that hold one of some phrases."""

    def __init__(self, phrases: tuple[str, ...]) -> None:
        super().__init__()
        self.phrases = phrases

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return not any(phrase in message for phrase in self.phrases)


@contextmanager
def quiet_loggers() -> Iterator[None]:
    """While something is looked for: retries and failures are told once, by us."""
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
    """As :func:`quiet_loggers`, without progress bars."""
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
