"""The units of the residual head, measured on encoded samples."""

from openhart.data import collate
from openhart.data.skipping import some_samples
from openhart.tokenizer.model import HybridTokenizer
from openhart.training.encoding.source import Source

RESIDUAL_SHARE_KEPT = 0.995
MEASURED_SAMPLES = 512
LARGEST_QUANTILE = 2**24  # torch takes no more values
LEAST_DEVIATION = 1e-4


def residual_scale(tokenizer: HybridTokenizer, source: Source, scaling: str) -> float | list[float]:
    """The units of the residual head, by which residuals are divided.

    Args:
        tokenizer: its codebook is that of the source.
        source: of the encoded samples; some are read.
        scaling: ``quantile``, one number, so that 99.5 % of the residuals are in [−1, 1]; or ``variance``,
            the standard deviation of each channel.
    """
    samples = some_samples(source.dataset, MEASURED_SAMPLES)
    size = samples[0][1].size
    values, _ = collate([pair for pair in samples if pair[1].size == size])
    encoded = source.encoded(values)
    codes, targets = encoded["codes"], encoded["targets"]
    residual = targets - tokenizer.quantizer.lookup(codes[:, -targets.shape[1] :]).float()
    if scaling == "variance":
        deviations: list[float] = residual.flatten(0, 1).std(dim=0).clamp_min(LEAST_DEVIATION).tolist()
        return deviations
    return float(residual.abs().flatten()[:LARGEST_QUANTILE].quantile(RESIDUAL_SHARE_KEPT))
