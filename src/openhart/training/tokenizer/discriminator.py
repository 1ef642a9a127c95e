"""The adversarial half of a tokenizer's step: a discriminator and its losses (VQGAN, arXiv 2012.09841)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from openhart.training.run.distributed import average_gradients, mean_over_processes
from openhart.training.tokenizer.recipe import TokenizerLosses

WIDEST = 8


class PatchDiscriminator(nn.Module):
    """PatchGAN (arXiv 1611.07004, appendix 6.1.2): image (B, 3, H, W) → one logit per patch.

    Args:
        width: channels of the first layer.
        depth: further layers, of which all but the last halve the sides; each doubles the channels, up to
            eight times ``width``.
    """

    def __init__(self, width: int = 64, depth: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for index in range(depth):
            before, after = (min(2**level, WIDEST) for level in (index, index + 1))
            stride = 2 if index < depth - 1 else 1
            layers += [
                nn.Conv2d(before * width, after * width, 4, stride, padding=1, bias=False),
                nn.GroupNorm(width // 2, after * width),  # batch norm would tell real batches from made
                nn.LeakyReLU(0.2),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(min(2**depth, WIDEST) * width, 1, 4, padding=1))

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, 1, h, w)."""
        logits: Tensor = self.layers(image)
        return logits


def discriminator_loss(real: Tensor, fake: Tensor, kind: str = "hinge") -> Tensor:
    """Loss of the discriminator from its logits on both kinds of image.

    Args:
        real: logits of images of the data.
        fake: logits of reconstructions.
        kind: ``hinge``, or ``vanilla``, the cross-entropy of real and fake (arXiv 1406.2661).
    """
    if kind == "vanilla":
        return (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2
    return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2


def adaptive_weight(
    reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, average: Callable[[Tensor], Tensor]
) -> Tensor:
    """Balance of the adversarial term: ratio of both gradients at the last layer (VQGAN, equation 7).

    Args:
        reconstruction: a scalar, the reconstruction loss.
        adversarial: a scalar, the adversarial loss.
        last_layer: the decoder's last weight.
        average: takes the mean of a gradient over all processes.
    """
    wanted, given = (
        average(torch.autograd.grad(loss, last_layer, retain_graph=True)[0]).norm()
        for loss in (reconstruction, adversarial)
    )
    balance: Tensor = wanted / (given + 1e-4)
    return balance.clamp(0, 1e4).detach()


class Adversary:
    """A discriminator, its optimizer and the losses between it and the tokenizer.

    Args:
        settings: the recipe's ``losses``.
        accelerator: of the run.
    """

    def __init__(self, settings: TokenizerLosses, accelerator: Accelerator) -> None:
        self.settings, self.accelerator = settings, accelerator
        self.discriminator = PatchDiscriminator(settings.discriminator_width, settings.discriminator_layers)
        optimizer = torch.optim.AdamW(
            self.discriminator.parameters(), lr=settings.discriminator_learning_rate, betas=(0.5, 0.9)
        )
        self.discriminator.to(accelerator.device)
        self.optimizer: Any = accelerator.prepare(optimizer)

    def tokenizer_loss(
        self, output: Tensor, reconstruction: Tensor, last_layer: Tensor, phase_step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted loss of a tokenizer whose outputs the discriminator recognizes.

        Args:
            output: (B, 3, H, W), with gradient.
            reconstruction: scalar, the tokenizer's reconstruction loss.
            last_layer: the decoder's last weight, at which gradients are balanced.
            phase_step: steps taken in this phase, over which the weight grows to its full value.

        Returns:
            the loss, a scalar, and metrics.
        """
        self.discriminator.requires_grad_(False)
        adversarial = -self.discriminator(output).mean()
        self.discriminator.requires_grad_(True)
        steps = self.settings.adversarial_ramp_steps
        ramp = min(1.0, phase_step / steps) if steps else 1.0
        average = partial(mean_over_processes, self.accelerator)
        balance = adaptive_weight(reconstruction, adversarial, last_layer, average)
        metrics = {"adversarial": adversarial, "adversarial_balance": balance}
        return self.settings.adversarial * ramp * balance * adversarial, metrics

    def backward(self, image: Tensor, output: Tensor, passes: int) -> Tensor:
        """Add the gradients of the discriminator's own loss, one of ``passes``; returns the loss."""
        with self.accelerator.autocast():
            real, fake = self.discriminator(image), self.discriminator(output.detach())
            loss = discriminator_loss(real.float(), fake.float(), self.settings.discriminator_loss)
        self.accelerator.backward(loss / passes)
        return loss

    def average_gradients(self) -> None:
        """Average the discriminator's gradients over processes. Collective."""
        average_gradients(self.accelerator, self.discriminator)
