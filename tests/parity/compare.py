"""Agreement with the recordings: 1e-4 absolute in float32, indices exactly."""

from contextlib import contextmanager

import torch


def assert_near(ours, recorded):
    torch.testing.assert_close(ours, recorded, atol=1e-4, rtol=0)


def assert_same(ours, recorded):
    torch.testing.assert_close(ours, recorded, atol=0, rtol=0)


def numbered(case, name):
    count = sum(key.startswith(f"{name}.") for key in case)
    return [case[f"{name}.{index}"] for index in range(count)]


@contextmanager
def outputs_of(module):
    """What a module returns, call by call, while the block runs."""
    seen = []
    hook = module.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    try:
        yield seen
    finally:
        hook.remove()
