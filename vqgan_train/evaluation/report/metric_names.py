"""Metrics of an evaluation: their stored names, and how tables and pages print them."""

from collections.abc import Mapping
from typing import NamedTuple


class Metric(NamedTuple):
    """How to print a metric, and its better direction."""

    label: str
    unit: str
    higher_is_better: bool | None
    """None: neither direction is better."""

    decimals: int

    def format(self, value: float, *, sign: str = "") -> str:
        """Format a value; `sign` is "+" for changes. A value that rounds to zero has no minus."""
        return f"{value:{sign}z,.{self.decimals}f}"


IMAGE_METRICS: Mapping[str, Metric] = {
    "psnr": Metric("PSNR", "dB", True, 2),
    "ssim": Metric("SSIM", "", True, 4),
    "lpips_vgg": Metric("LPIPS VGG", "", False, 4),
    "lpips_alex": Metric("LPIPS AlexNet", "", False, 4),
    "l1": Metric("L1", "", False, 4),
}
"""Metrics of single images, in the order of tables, by the keys of `CheckpointResult.values`.

`lpips_alex` is the metric that training logs as `val/lpips_alexnet`.
"""

FACE_METRICS: Mapping[str, Metric] = {
    "face_psnr": Metric("face PSNR", "dB", True, 2),
    "face_lpips_vgg": Metric("face LPIPS VGG", "", False, 4),
    "face_lpips_alex": Metric("face LPIPS AlexNet", "", False, 4),
    "face_identity": Metric("identity distance", "", False, 4),
}
"""Metrics of single faces, by the keys of `CheckpointResult.face_values`.

The identity distance is that of dlib's embeddings: two photos of one person are less than 0.6
apart.
"""

METRICS: Mapping[str, Metric] = {
    **IMAGE_METRICS,
    **FACE_METRICS,
    "rfid": Metric("rFID", "", False, 2),
    "num_tokens": Metric("tokens", "", None, 0),
    "codes_used": Metric("codes used", "", True, 0),
    "uniform_codes_used": Metric("codes used, uniform", "", None, 0),
    "dead_codes": Metric("dead codes", "", False, 0),
    "perplexity": Metric("perplexity", "", True, 1),
    "uniform_perplexity": Metric("perplexity, uniform", "", None, 1),
    "entropy_bits": Metric("token entropy", "bit", True, 2),
}
