import torch

from openhart.arithmetic import fastest_dtype, matmul_rate
from openhart.training.run.settings import Run

CPU = torch.device("cpu")


def test_the_precision_that_is_chosen_is_the_faster_one():
    chosen = fastest_dtype(CPU)
    other = torch.float32 if chosen == torch.bfloat16 else torch.bfloat16
    assert matmul_rate(CPU, chosen, 256) >= matmul_rate(CPU, other, 256)


def test_a_recipe_that_leaves_the_precision_open_gets_that_one():
    wanted = "bf16" if fastest_dtype(CPU) == torch.bfloat16 else "no"
    assert Run(output="runs/a").precision == Run(output="runs/a", precision="auto").precision == wanted
