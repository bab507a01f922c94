"""The metrics by name, and how to print them."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Metric(NamedTuple):
    """How to print a number, and which way it should go."""

    label: str
    unit: str
    higher_is_better: bool
    decimals: int


IMAGE_METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "psnr": Metric("PSNR", "dB", True, 2),
        "ssim": Metric("SSIM", "", True, 4),
        "lpips_vgg": Metric("LPIPS VGG", "", False, 4),
        "lpips_alex": Metric("LPIPS AlexNet", "", False, 4),
        "l1": Metric("L1", "", False, 4),
    }
)
"""Of each image, in the order of tables. Keys are those of `CheckpointResult.values`."""

FACE_METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "face_psnr": Metric("face PSNR", "dB", True, 2),
        "face_lpips_vgg": Metric("face LPIPS VGG", "", False, 4),
        "face_lpips_alex": Metric("face LPIPS AlexNet", "", False, 4),
        "face_identity": Metric("identity distance", "", False, 4),
    }
)
"""Of each face. Keys are those of `CheckpointResult.face_values`. The distance of identities is
that of dlib's embeddings, in which two photos of one person are less than 0.6 apart."""

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        **IMAGE_METRICS,
        **FACE_METRICS,
        "rfid": Metric("rFID", "", False, 2),
        "codes_used": Metric("codes used", "", True, 0),
        "dead_codes": Metric("dead codes", "", False, 0),
        "perplexity": Metric("perplexity", "", True, 1),
        "entropy_bits": Metric("token entropy", "bit", True, 2),
    }
)
