"""The programs that are timed, behind one call: ours, and the reference programs with plain torch kernels.

A run is greedy and takes its noise from a seed, so that two programs can make the same picture; codes can be
given, so that a run in bfloat16 is compared on the same codes.
"""

import contextlib
import resource
import sys
import time
import types
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
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
    """Seconds, once what was begun is done."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_memory() -> float:
    """The most memory this process has held, on a GPU if it used one, in GiB."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@dataclass
class Run:
    """One picture, or a batch: seconds in all and by phase, codes a scale, images, peak memory."""

    seconds: float
    phases: dict[str, float]
    codes: list[Tensor]
    images: Tensor
    peak_gib: float = field(default_factory=peak_memory)


class Stopwatch:
    """Seconds by phase; a phase is all calls of a function, or the time up to a mark."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.phases: dict[str, float] = defaultdict(float)
        self.since = now()

    def watch(self, owner: Any, name: str, phase: str) -> None:
        """Count the calls of a method of ``owner`` as a phase."""
        original = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = now()
            result = original(*args, **kwargs)
            self.phases[phase] += now() - start
            return result

        setattr(owner, name, timed)

    def mark(self, phase: str) -> None:
        """End a phase that began at the mark before."""
        end = now()
        self.phases[phase] += end - self.since
        self.since = end


class Noise:
    """Normal noise in the order it is asked for, the same for every program."""

    def __init__(self) -> None:
        self.generator = torch.Generator()

    def draw(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)


def context(shape: Shape, batch: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random context tokens (B, 300, 1536), 40 of them real."""
    tokens = torch.randn(batch, 300, 1536, generator=torch.Generator().manual_seed(seed + 17))
    return tokens, (torch.arange(300) < 40).expand(batch, -1)


def apply(pipeline: HartPipeline, level: str | None) -> None:
    """Optimize a pipeline, or quantize its weights."""
    if level in ("int8", "fp8"):
        pipeline.quantize(level)
    elif level is not None:
        pipeline.optimize(level)


class GreedyDraws(SeededDraws):
    """The likeliest codes, or given ones, and noise that both programs share; marks the time per scale."""

    def __init__(self, batch: int, watch: Stopwatch, noise: Noise) -> None:
        super().__init__([torch.Generator() for _ in range(batch)])
        self.watch, self.noise = watch, noise
        self.greedy: list[Tensor] = []
        self.given: list[Tensor] | None = None

    def codes(self, logits: Tensor, scale_index: int) -> Tensor:
        self.watch.mark(f"scale {scale_index + 1}")
        self.greedy.append(logits.argmax(dim=-1))
        return self.greedy[-1] if self.given is None else self.given[scale_index]

    def normal(self, shape: Sequence[int]) -> Tensor:
        return torch.stack([self.noise.draw(*shape) for _ in range(self.batch)])


def ours(shape: Shape, device: str, dtype: str, level: str | None, batch: int) -> Callable[..., Run]:
    """Our pipeline; ``level`` as :func:`apply` takes it."""
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
        draws.given = codes
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
def made_for(device: str) -> Iterator[None]:
    """Let a program that moves everything to a GPU leave it where it is, unless that is a GPU."""
    if device == "cuda":
        yield
        return
    torch.Tensor.cuda = lambda self, *args, **kwargs: self
    torch.nn.Module.cuda = lambda self, *args, **kwargs: self
    torch.cuda.amp.autocast = lambda *args, **kwargs: contextlib.nullcontext()
    yield


def random_weights(shape: Shape) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Our random weights under the released names: of the tokenizer, and of all the rest."""
    from openhart.conversion import keys

    pipeline = build(shape)
    phis = r"quant_resi.qresi_ls.\1"
    tokenizer = {
        keys.rename(name, keys.tokenizer_rules(5, phis, "")): value
        for name, value in pipeline.image_tokenizer.state_dict().items()
    }
    attention = keys.ROTARY_ATTENTION if shape.family == "hart" else keys.PLAIN_ATTENTION
    rest = {
        keys.rename(name, [*attention, *keys.TRANSFORMER]): value
        for name, value in pipeline.transformer.state_dict().items()
    }
    if pipeline.residual_head is not None:
        head = pipeline.residual_head.state_dict().items()
        rest |= {keys.rename(name, keys.RESIDUAL_HEAD): value for name, value in head}
    if pipeline.label_encoder is not None:
        rest["class_emb.weight"] = pipeline.label_encoder.embedding.weight.detach()
        positions = rest.pop("position_embed")
        rest |= {"pos_1LC": positions[None], "pos_start": torch.zeros(1, 1, positions.shape[1])}
        rest = {name: value for name, value in rest.items() if not name.startswith("decoder_norm")}
    return tokenizer, rest


def place(model: torch.nn.Module, weights: dict[str, Tensor]) -> None:
    """Load weights; only buffers, which the program makes itself, may be missing."""
    shapes = model.state_dict()
    weights = {name: value.reshape(shapes[name].shape) for name, value in weights.items()}
    missing = set(torch.nn.Module.load_state_dict(model, weights, strict=False).missing_keys)
    left = missing & {name for name, _ in model.named_parameters()}
    if left:
        raise SystemExit(f"the reference has weights we do not: {', '.join(sorted(left)[:5])}")


def own_precision(device: str) -> contextlib.AbstractContextManager[Any]:
    """What the reference programs run in: half precision on a GPU, float32 on a CPU."""
    return torch.autocast("cuda", torch.float16) if device == "cuda" else contextlib.nullcontext()


def hart_reference(folder: Path, shape: Shape, device: str, batch: int) -> Callable[..., Run]:
    """github.com/mit-han-lab/hart from a checkout, its fused kernels replaced by plain torch."""
    sys.path.insert(0, str(folder))
    backend = types.ModuleType("hart_backend")
    backend.fused_kernels = types.ModuleType("hart_backend.fused_kernels")
    backend.fused_kernels.rms_norm = _rms_norm
    sys.modules |= {"hart_backend": backend, "hart_backend.fused_kernels": backend.fused_kernels}
    with made_for(device), contextlib.redirect_stdout(None):
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
    place(tokenizer.vae, weights[0])
    place(model, weights[1])
    del weights
    model.to(device), tokenizer.to(device)
    noise, watch = Noise(), Stopwatch()
    drawn = _draw_greedily(program, model, watch)
    watch.watch(model.diffloss, "sample", "residual")
    watch.watch(tokenizer.vae, "fhat_to_img", "decoder")

    def run(seed: int, codes: list[Tensor] | None = None) -> Run:
        tokens, mask = (part.to(device) for part in context(shape, batch, seed))
        drawn.clear()
        noise.generator.manual_seed(seed)
        with _own_noise(noise, batch, shape.scales[-1] ** 2), torch.no_grad(), own_precision(device):
            start = now()
            watch.clear()
            images = model.autoregressive_infer_cfg(
                batch, tokens, cfg=GUIDANCE, context_position_ids=mask.cumsum(1) - 1, context_mask=mask
            )
            seconds = now() - start
        return Run(seconds, dict(watch.phases), list(drawn), images)

    return run


def var_reference(folder: Path, shape: Shape, device: str, batch: int) -> Callable[..., Run]:
    """github.com/FoundationVision/VAR from a checkout."""
    sys.path.insert(0, str(folder))
    with made_for(device), contextlib.redirect_stdout(None):
        import models
        import models.var as program

        tokenizer, model = models.build_vae_var(device, patch_nums=shape.scales, depth=shape.depth)
    weights = random_weights(shape)
    place(tokenizer, weights[0])
    place(model, weights[1])
    del weights
    watch = Stopwatch()
    drawn = _draw_greedily(program, model.eval(), watch)
    watch.watch(tokenizer.eval(), "fhat_to_img", "decoder")

    def run(seed: int, codes: list[Tensor] | None = None) -> Run:
        drawn.clear()
        labels = torch.tensor([LABEL] * batch, device=device)
        with torch.no_grad(), own_precision(device):
            start = now()
            watch.clear()
            images = model.autoregressive_infer_cfg(batch, labels, cfg=GUIDANCE)
            seconds = now() - start
        return Run(seconds, dict(watch.phases), list(drawn), images)

    return run


def _draw_greedily(program: Any, model: Any, watch: Stopwatch) -> list[Tensor]:
    """Replace a reference's random draw; returns the list that its codes, a tensor a scale, go to."""
    drawn: list[Tensor] = []
    score = model.get_logits

    def get_logits(*args: Any) -> Tensor:
        logits = score(*args)
        watch.mark(f"scale {len(drawn) + 1}")
        return logits

    def draw(logits: Tensor, *_: Any, **__: Any) -> Tensor:
        drawn.append(logits.argmax(dim=-1))
        return drawn[-1][..., None]

    model.get_logits, program.sample_with_top_k_top_p_ = get_logits, draw
    return drawn


def _rms_norm(out: Tensor, x: Tensor, weight: Tensor, eps: float, _: Any) -> None:
    out.copy_(x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight)


@contextlib.contextmanager
def _own_noise(noise: Noise, batch: int, tokens: int) -> Iterator[None]:
    """Let the reference's residual take its noise as ours does; both halves of its batch share it."""
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
