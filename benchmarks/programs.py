"""The measured programs with one interface: OpenHART, and the reference programs with plain torch kernels.

Codes are the most probable ones, and noise is drawn from a seed, so that two programs can generate the same
image. Codes can also be given, so that a run in bfloat16 is compared with the same codes.
"""

import contextlib
import resource
import sys
import time
import types
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from shapes import Shape, build
from torch import Tensor

from openhart.pipelines.hart import HartPipeline
from openhart.randomness import SeededDraws

GUIDANCE = 4.0
STEPS = 8
LABEL = 207


def now() -> float:
    """Current time in seconds, after the GPU has finished its work."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_memory() -> float:
    """Peak memory of this process in GiB: of the GPU if it is used, otherwise of the CPU."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@dataclass
class Run:
    """One generated batch: seconds in total and by phase, codes per scale, images, peak memory."""

    seconds: float
    phases: dict[str, float]
    codes: list[Tensor]
    images: Tensor
    peak_gib: float = field(default_factory=peak_memory)


class Stopwatch:
    """Seconds by phase; a phase is all calls of one method, or the time between two marks."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.phases: dict[str, float] = defaultdict(float)
        self.since = now()

    def watch(self, owner: Any, name: str, phase: str) -> None:
        """Measure all calls of a method of ``owner`` as one phase."""
        original = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = now()
            result = original(*args, **kwargs)
            self.phases[phase] += now() - start
            return result

        setattr(owner, name, timed)

    def mark(self, phase: str) -> None:
        """End a phase that began at the previous mark."""
        end = now()
        self.phases[phase] += end - self.since
        self.since = end


class Noise:
    """Normal noise from one generator, the same for every program that draws in the same order."""

    def __init__(self) -> None:
        self.generator = torch.Generator()

    def draw(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)


def context(shape: Shape, batch: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random context tokens (B, 300, 1536) and their mask, in which 40 tokens are valid."""
    tokens = torch.randn(batch, 300, 1536, generator=torch.Generator().manual_seed(seed + 17))
    return tokens, (torch.arange(300) < 40).expand(batch, -1)


def apply(pipeline: HartPipeline, level: str | None) -> None:
    """Optimize a pipeline or quantize its weights, in place; None changes nothing."""
    if level in ("int8", "fp8"):
        pipeline.quantize(level)
    elif level is not None:
        pipeline.optimize(level)


class GreedyDraws(SeededDraws):
    """The most probable codes, or given ones, and shared noise; marks the end of each scale."""

    def __init__(self, batch: int, watch: Stopwatch, noise: Noise) -> None:
        super().__init__([torch.Generator() for _ in range(batch)])
        self.watch, self.noise = watch, noise
        self.greedy: list[Tensor] = []
        self.fixed: list[Tensor] | None = None

    def codes(self, logits: Tensor, scale_index: int) -> Tensor:
        self.watch.mark(f"scale {scale_index + 1}")
        self.greedy.append(logits.argmax(dim=-1))
        return self.greedy[-1] if self.fixed is None else self.fixed[scale_index]

    def normal(self, shape: Sequence[int]) -> Tensor:
        return torch.stack([self.noise.draw(*shape) for _ in range(self.batch)])


def ours(shape: Shape, device: str, dtype: str, level: str | None, batch: int) -> Callable[..., Run]:
    """A function that generates with our pipeline; ``level`` is an argument of :func:`apply`."""
    pipeline = build(shape).to(device, getattr(torch, dtype))
    apply(pipeline, level)
    pipeline.set_progress_bar_config(disable=True)
    watch, noise = Stopwatch(), Noise()
    draws = GreedyDraws(batch, watch, noise)
    if pipeline.residual_head is not None:
        watch.watch(pipeline.residual_head, "forward", "residual")
    watch.watch(pipeline.image_tokenizer, "decode", "decoder")

    def run(seed: int, codes: list[Tensor] | None = None) -> Run:
        draws.greedy.clear()
        draws.fixed = codes
        noise.generator.manual_seed(seed)
        condition: dict[str, Any] = {"class_labels": [LABEL] * batch}
        if shape.family == "hart":
            tokens, mask = context(shape, batch, seed)
            condition = {"prompt_embeds": tokens, "prompt_attention_mask": mask}
        start = now()
        watch.clear()
        images = pipeline(
            **condition,
            draws=draws,
            guidance_scale=GUIDANCE + 1,
            top_k=1,
            residual_steps=STEPS,
            output_type="pt",
        ).images
        return Run(now() - start, dict(watch.phases), list(draws.greedy), images)

    return run


@contextlib.contextmanager
def without_cuda(device: str) -> Iterator[None]:
    """Make ``.cuda()`` and CUDA's autocast do nothing on a CPU, for programs that assume a GPU."""
    if device == "cuda":
        yield
        return
    torch.Tensor.cuda = lambda self, *args, **kwargs: self
    torch.nn.Module.cuda = lambda self, *args, **kwargs: self
    torch.cuda.amp.autocast = lambda *args, **kwargs: contextlib.nullcontext()
    yield


def random_weights(shape: Shape) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Our random weights under the released names: those of the tokenizer, and all others."""
    from openhart.conversion import keys

    pipeline = build(shape)
    phis = r"quant_resi.qresi_ls.\1"
    tokenizer = {
        keys.rename(name, keys.tokenizer_rules(5, phis, "")): value
        for name, value in pipeline.image_tokenizer.state_dict().items()
    }
    attention = keys.ROTARY_ATTENTION if shape.family == "hart" else keys.PLAIN_ATTENTION
    others = {
        keys.rename(name, [*attention, *keys.TRANSFORMER]): value
        for name, value in pipeline.transformer.state_dict().items()
    }
    if pipeline.residual_head is not None:
        head = pipeline.residual_head.state_dict().items()
        others |= {keys.rename(name, keys.RESIDUAL_HEAD): value for name, value in head}
    if pipeline.label_encoder is not None:
        others["class_emb.weight"] = pipeline.label_encoder.embedding.weight.detach()
        positions = others.pop("position_embed")
        others |= {"pos_1LC": positions[None], "pos_start": torch.zeros(1, 1, positions.shape[1])}
        others = {name: value for name, value in others.items() if not name.startswith("decoder_norm")}
    return tokenizer, others


def load_weights(model: torch.nn.Module, weights: dict[str, Tensor]) -> None:
    """Load weights; only buffers, which the reference program creates, may be missing."""
    shapes = model.state_dict()
    weights = {name: value.reshape(shapes[name].shape) for name, value in weights.items()}
    missing = set(torch.nn.Module.load_state_dict(model, weights, strict=False).missing_keys)
    absent = missing & {name for name, _ in model.named_parameters()}
    if absent:
        raise SystemExit(f"the reference has weights that OpenHART lacks: {', '.join(sorted(absent)[:5])}")


def reference_precision(device: str) -> contextlib.AbstractContextManager[Any]:
    """Precision of the reference programs: half precision on a GPU, float32 on a CPU."""
    return torch.autocast("cuda", torch.float16) if device == "cuda" else contextlib.nullcontext()


def hart_reference(folder: Path, shape: Shape, device: str, batch: int) -> Callable[..., Run]:
    """A function that generates with a checkout of github.com/mit-han-lab/hart.

    On a GPU its fused kernels are used if its ``hart/kernels`` is installed; otherwise, and on a CPU, they
    are replaced by equivalent torch operations.
    """
    sys.path.insert(0, str(folder))
    if device == "cpu" or find_spec("hart_backend") is None:
        backend = types.ModuleType("hart_backend")
        backend.fused_kernels = types.ModuleType("hart_backend.fused_kernels")
        backend.fused_kernels.rms_norm = _rms_norm
        sys.modules |= {"hart_backend": backend, "hart_backend.fused_kernels": backend.fused_kernels}
    with without_cuda(device), contextlib.redirect_stdout(None):
        import hart.modules.models.autoencoder.hart_autoencoder_with_disc as autoencoders
        import hart.modules.models.transformer.hart_transformer_t2i as program
        import hart.modules.networks.basic_hart as networks
        from hart.modules.models.autoencoder.configuration import HARTAutoEncoderWithDiscConfig
        from hart.modules.models.transformer.configuration import HARTForT2IConfig

        autoencoders.create_discriminator = lambda: torch.nn.Identity()
        plain = networks.SelfAttention.forward
        networks.SelfAttention.forward = lambda self, x, attn_bias, **rest: plain(self, x, attn_bias)
        config = HARTAutoEncoderWithDiscConfig(
            vocab_size=4096, z_channels=32, ch=160, ch_mult=[1, 1, 2, 2, 4], quantizer_type="var_hybrid",
            hybrid=True, v_patch_nums=list(shape.scales),
        )  # fmt: skip
        tokenizer = autoencoders.HARTAutoEncoderWithDisc(config).eval()
        program.HARTAutoEncoderWithDisc.from_pretrained = classmethod(lambda cls, *_, **__: tokenizer)
        program.HARTForT2I.gradient_checkpointing = False
        config = HARTForT2IConfig(
            vae_path="", context_token=300, context_dim=1536, depth=shape.depth, embed_dim=1536,
            num_heads=24, attn_type="llama", mlp_type="llama", disable_aln=True, shared_aln=True,
            use_timestep_embed=True, sep_aln_pooling_mode="avg", use_context_norm=True,
            patch_nums=list(shape.scales), diff_width=1024, diff_depth=6, num_sampling_steps=str(STEPS),
        )  # fmt: skip
        model = program.HARTForT2I(config).eval()
    weights = random_weights(shape)
    load_weights(tokenizer.vae, weights[0])
    load_weights(model, weights[1])
    del weights
    model.to(device), tokenizer.to(device)
    noise, watch = Noise(), Stopwatch()
    chosen = _choose_greedily(program, model, watch)
    watch.watch(model.diffloss, "sample", "residual")
    watch.watch(tokenizer.vae, "fhat_to_img", "decoder")

    def run(seed: int, codes: list[Tensor] | None = None) -> Run:
        tokens, mask = (part.to(device) for part in context(shape, batch, seed))
        chosen.clear()
        noise.generator.manual_seed(seed)
        tokens_at_last = shape.scales[-1] ** 2
        with _shared_noise(noise, batch, tokens_at_last), torch.no_grad(), reference_precision(device):
            start = now()
            watch.clear()
            images = model.autoregressive_infer_cfg(
                batch, tokens, cfg=GUIDANCE, context_position_ids=mask.cumsum(1) - 1, context_mask=mask
            )
            seconds = now() - start
        return Run(seconds, dict(watch.phases), list(chosen), images)

    return run


def var_reference(folder: Path, shape: Shape, device: str, batch: int) -> Callable[..., Run]:
    """A function that generates with a checkout of github.com/FoundationVision/VAR."""
    sys.path.insert(0, str(folder))
    with without_cuda(device), contextlib.redirect_stdout(None):
        import models
        import models.var as program

        tokenizer, model = models.build_vae_var(device, patch_nums=shape.scales, depth=shape.depth)
    weights = random_weights(shape)
    load_weights(tokenizer, weights[0])
    load_weights(model, weights[1])
    del weights
    watch = Stopwatch()
    chosen = _choose_greedily(program, model.eval(), watch)
    watch.watch(tokenizer.eval(), "fhat_to_img", "decoder")

    def run(seed: int, codes: list[Tensor] | None = None) -> Run:
        chosen.clear()
        labels = torch.tensor([LABEL] * batch, device=device)
        with torch.no_grad(), reference_precision(device):
            start = now()
            watch.clear()
            images = model.autoregressive_infer_cfg(batch, labels, cfg=GUIDANCE)
            seconds = now() - start
        return Run(seconds, dict(watch.phases), list(chosen), images)

    return run


def _choose_greedily(program: Any, model: Any, watch: Stopwatch) -> list[Tensor]:
    """Replace a reference's random sampling by the most probable codes.

    Returns:
        a list to which each call appends the codes of a scale.
    """
    chosen: list[Tensor] = []
    score = model.get_logits

    def get_logits(*args: Any) -> Tensor:
        logits = score(*args)
        watch.mark(f"scale {len(chosen) + 1}")
        return logits

    def choose(logits: Tensor, *_: Any, **__: Any) -> Tensor:
        chosen.append(logits.argmax(dim=-1))
        return chosen[-1][..., None]

    model.get_logits, program.sample_with_top_k_top_p_ = get_logits, choose
    return chosen


def _rms_norm(out: Tensor, x: Tensor, weight: Tensor, eps: float, _: Any) -> None:
    out.copy_(x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight)


@contextlib.contextmanager
def _shared_noise(noise: Noise, batch: int, tokens: int) -> Iterator[None]:
    """Make the reference's diffusion use our noise; both halves of its guided batch get the same."""
    randn, randn_like = torch.randn, torch.randn_like

    def first(*shape: int, device: Any = "cpu", **_: Any) -> Tensor:
        return torch.stack([noise.draw(tokens, shape[1]) for _ in range(batch)]).flatten(0, 1).to(device)

    def later(x: Tensor, **_: Any) -> Tensor:
        half = first(len(x) // 2, x.shape[1]).to(x.device)
        return torch.cat([half, half])

    noise.draw = lambda *shape: randn(*shape, generator=noise.generator)  # type: ignore[method-assign]
    torch.randn, torch.randn_like = first, later
    try:
        yield
    finally:
        torch.randn, torch.randn_like = randn, randn_like
