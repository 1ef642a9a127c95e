"""Muon for the matrices of hidden layers, AdamW for everything else, as one optimizer.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) replaces the momentum of a matrix by the
nearest matrix with orthonormal rows or columns, so that all directions of a weight learn at the same rate.
``torch.optim.Muon`` takes only 2-D parameters and orthogonalizes in bfloat16, which processors without such
instructions emulate about a hundred times slower than float32; here convolution kernels are flattened to
(out, in · height · width), matrices of one shape are orthogonalized in one batch, and CPUs work in float32.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim.adamw import adamw

from openhart.training.run.distributed import full_tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
SMALLEST_SIDE = 64
OUTPUT_LAYER = "head"


def split_for_muon(modules: Iterable[nn.Module]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Divide the trained parameters of modules into those for Muon and those for AdamW.

    Muon takes the weights of linear maps and convolutions whose flattened matrix has at least 64 rows and 64
    columns. Embeddings, norms, biases, a transformer's output layer ``head`` and thin maps, such as the first
    and last convolution of an autoencoder, go to AdamW. With Muon on ``head``,
    cross-entropy fell more slowly (``docs/training.md``).

    Args:
        modules: their parameters are looked at recursively, each once.

    Returns:
        parameters for Muon, parameters for AdamW.
    """
    hidden: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    seen: set[int] = set()
    for module in modules:
        for path, part in module.named_modules():
            is_output = path.rpartition(".")[2] == OUTPUT_LAYER
            for name, parameter in part.named_parameters(recurse=False):
                if not parameter.requires_grad or id(parameter) in seen:
                    continue
                seen.add(id(parameter))
                is_map = isinstance(part, nn.Linear | nn.Conv2d) and name == "weight" and not is_output
                thick = is_map and min(parameter.flatten(1).shape) >= SMALLEST_SIDE
                (hidden if thick else others).append(parameter)
    return hidden, others


@torch.no_grad()
def orthogonalize(matrices: Tensor) -> Tensor:
    """Bring the singular values of each matrix near 1 by a Newton–Schulz iteration of fifth order.

    An iteration takes X to (aI + bG + cG²)X with G = XXᵀ. Wide matrices iterate on the small G alone and
    multiply X once at the end: all factors are polynomials of the first G, so they commute.

    Args:
        matrices: (N, rows, columns), float32; bfloat16 is used inside on devices other than the CPU.

    Returns:
        (N, rows, columns), in the dtype of ``matrices``.
    """
    x = matrices if matrices.device.type == "cpu" else matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.transpose(1, 2)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    on_cpu = x.device.type == "cpu"  # the short form squares small singular values: float32 alone bears that
    x = _iterate_on_gram(x) if on_cpu and 2 * x.shape[1] <= x.shape[2] else _iterate(x)
    return (x.transpose(1, 2) if tall else x).to(matrices.dtype)


def _iterate(x: Tensor) -> Tensor:
    for _ in range(ITERATIONS):
        x = _polynomial(x @ x.transpose(1, 2)) @ x
    return x


def _iterate_on_gram(x: Tensor) -> Tensor:
    gram = x @ x.transpose(1, 2)
    product = factor = _polynomial(gram)
    for _ in range(ITERATIONS - 1):
        gram = factor @ gram @ factor
        factor = _polynomial(gram)
        product = factor @ product
    return product @ x


def _polynomial(gram: Tensor) -> Tensor:
    """aI + bG + cG² of symmetric matrices (N, n, n)."""
    a, b, c = COEFFICIENTS
    factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    factor.diagonal(dim1=1, dim2=2).add_(a)
    return factor


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon with Nesterov momentum for some parameters, AdamW for the others.

    Args:
        hidden: parameters of two or more dimensions for Muon; see :func:`split_for_muon`.
        others: parameters for AdamW.
        muon_learning_rate: step of Muon, times √max(1, rows / columns) of each matrix.
        learning_rate: step of AdamW.
        momentum: of Muon.
        betas: of AdamW.
        weight_decay: decoupled (arXiv 1711.05101), of all parameters with two or more dimensions.
    """

    def __init__(
        self,
        hidden: list[nn.Parameter],
        others: list[nn.Parameter],
        muon_learning_rate: float = 0.02,
        learning_rate: float = 8e-4,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.0,
    ) -> None:
        matrices = [parameter for parameter in others if parameter.ndim >= 2]
        vectors = [parameter for parameter in others if parameter.ndim < 2]
        groups = [
            {"params": hidden, "method": "muon", "lr": muon_learning_rate, "weight_decay": weight_decay},
            {"params": matrices, "method": "adamw", "lr": learning_rate, "weight_decay": weight_decay},
            {"params": vectors, "method": "adamw", "lr": learning_rate, "weight_decay": 0.0},
        ]
        shared = {"momentum": momentum, "betas": betas}
        super().__init__([group for group in groups if group["params"]], shared)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take one step; parameters without a gradient stay as they are. ``closure`` must be None."""
        for group in self.param_groups:
            trained = [parameter for parameter in group["params"] if parameter.grad is not None]
            gradients = [parameter.grad for parameter in trained]
            if trained:
                (self._muon if group["method"] == "muon" else self._adamw)(trained, gradients, group)

    def _muon(self, trained: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        momenta = [self._kept(parameter, "momentum") for parameter in trained]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, momenta, group["momentum"])
        torch._foreach_mul_(trained, 1 - group["lr"] * group["weight_decay"])
        alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for parameter, direction in zip(trained, ahead, strict=True):
            alike[parameter.shape].append((parameter, full_tensor(direction).flatten(1).float()))
        for shape, members in alike.items():
            updates = orthogonalize(torch.stack([direction for _, direction in members]))
            rate = group["lr"] * max(1.0, updates.shape[1] / updates.shape[2]) ** 0.5
            for (parameter, _), update in zip(members, updates, strict=True):
                parameter.add_(_placed_as(update.view(shape), parameter), alpha=-rate)

    def _adamw(self, trained: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        names = ("exp_avg", "exp_avg_sq")
        first, second = ([self._kept(parameter, name) for parameter in trained] for name in names)
        steps = [self.state[parameter].setdefault("step", torch.tensor(0.0)) for parameter in trained]
        adamw(
            trained, gradients, first, second, [], steps,
            amsgrad=False, beta1=group["betas"][0], beta2=group["betas"][1], lr=group["lr"],
            weight_decay=group["weight_decay"], eps=1e-8, maximize=False, foreach=True,
        )  # fmt: skip

    def _kept(self, parameter: Tensor, name: str) -> Tensor:
        state = self.state[parameter]
        if name not in state:
            state[name] = torch.zeros_like(parameter)
        kept: Tensor = state[name]
        return kept


def _placed_as(update: Tensor, parameter: Tensor) -> Tensor:
    """An update that every process computed in full, sharded as its parameter is."""
    if isinstance(parameter, DTensor):
        return distribute_tensor(update, parameter.device_mesh, parameter.placements)
    return update
