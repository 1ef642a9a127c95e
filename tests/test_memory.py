"""What does not fit is refused before it is computed, by an estimate from the sizes."""

import pytest
import torch

from openhart.errors import UserError
from openhart.memory import (
    GIB,
    ImageMemory,
    check_step,
    check_training,
    free_memory,
    is_out_of_memory,
    largest_fitting,
)
from tests.tiny import tiny_tokenizer, tiny_transformer

CPU = torch.device("cpu")


def test_more_and_larger_pictures_take_more():
    plain = ImageMemory(tiny_transformer(), tiny_tokenizer(), guided=False)
    guided = ImageMemory(plain.transformer, plain.tokenizer, guided=True)
    assert plain.of(1, (32, 32)) < plain.of(2, (32, 32)) <= plain.of(1, (64, 64))
    assert plain.of(4, (512, 512)) < guided.of(4, (512, 512))
    tiled = ImageMemory(plain.transformer, plain.tokenizer, guided=False, tile=8)
    assert tiled.of(1, (4096, 4096)) < plain.of(1, (4096, 4096))


@pytest.mark.skipif(free_memory(CPU) is None, reason="the free memory is unknown")
def test_what_cannot_be_trained_is_reported():
    check_training(1000, CPU)
    check_step(1000, CPU)
    with pytest.raises(UserError, match="lower its width or depth"):
        check_training(10**14, CPU)
    with pytest.raises(UserError, match=r"lower data\.batch_size"):
        check_step(10**6 * GIB, CPU)


def test_the_largest_that_fits():
    assert largest_fitting(lambda value: value <= 17, 100) == 17
    assert largest_fitting(lambda value: True, 100) == 100
    assert largest_fitting(lambda value: False, 100) == 0


def test_memory_that_runs_out_is_known_as_such():
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shapes differ"))
