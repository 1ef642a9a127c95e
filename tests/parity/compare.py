"""Agreement with the recordings: 1e-4 absolute in float32, indices exactly."""

import torch


def assert_near(ours, recorded):
    torch.testing.assert_close(ours, recorded, atol=1e-4, rtol=0)


def assert_same(ours, recorded):
    torch.testing.assert_close(ours, recorded, atol=0, rtol=0)


def numbered(case, name):
    count = sum(key.startswith(f"{name}.") for key in case)
    return [case[f"{name}.{index}"] for index in range(count)]
