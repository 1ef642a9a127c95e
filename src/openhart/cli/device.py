"""The device that a command computes on."""

from typing import Any

from openhart.errors import UserError

DEVICES = ("cpu", "cuda", "mps", "xpu")


def find_device(name: str | None = None) -> Any:
    """A device by its name, or the fastest one of this machine.

    Raises:
        UserError: there is none of that name.
    """
    import torch

    if name is None:
        accelerators = (("cuda", torch.cuda), ("mps", torch.backends.mps))
        name = next((kind for kind, there in accelerators if there.is_available()), "cpu")
    try:
        if torch.device(name).type not in DEVICES:
            raise NotImplementedError
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"there is no device {name!r} here: use --device cpu") from error
    return torch.device(name)
