"""States of the random number generators of Python, numpy, torch and the device."""

import random
from typing import Any

import numpy as np
import torch


class RandomStates:
    """The generators of a process, as a checkpoint keeps them.

    Args:
        device: its generator is kept too.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint stores."""
        kind, keys, *rest = np.random.get_state()
        states: dict[str, Any] = {
            "python": random.getstate(),
            "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
            "torch": torch.get_rng_state(),
        }
        if self.device.type != "cpu":
            states[self.device.type] = torch.get_device_module(self.device).get_rng_state()
        return states

    def load_state_dict(self, states: dict[str, Any]) -> None:
        """Restore the states; the generator of a device of another kind keeps its state."""
        kind, keys, *rest = states["numpy"]
        random.setstate(states["python"])
        np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
        torch.set_rng_state(states["torch"])
        if self.device.type != "cpu" and self.device.type in states:
            torch.get_device_module(self.device).set_rng_state(states[self.device.type])
