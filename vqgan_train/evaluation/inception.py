"""The network behind rFID: torch-fidelity's Inception v3 with the weights of the original FID.

Its resizing is TensorFlow 1's, as in the code of the FID's authors, so numbers compare with those
of torch-fidelity, with which taming-transformers' 4.98 was measured, and not with clean-fid's or
those of torchmetrics' default, which resizes with antialiasing.
"""

import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from vqgan_train.cache import file_sha256
from vqgan_train.evaluation.evaluators import Evaluator
from vqgan_train.evaluation.inception_weights import (
    MEMBER_SHA256,
    PACKAGE,
    as_torch_fidelity_has_them,
)
from vqgan_train.tf32 import tf32_convolutions

NUM_FEATURES = 2048
WEIGHTS = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
    "#sha256=6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
)
PUBLISHED_SHA256 = WEIGHTS.rpartition("=")[2]
"""Of the file."""


class InceptionWeightsError(ValueError):
    """A file holds no weights of this network."""


class InceptionFeatures(nn.Module):
    """Images (B, 3, H, W) uint8 to features (B, 2048) float32.

    Args:
        weights: torch-fidelity's file, or one of its kind with other weights, or that of the
            package `PACKAGE`.

    Raises:
        InceptionWeightsError: it is of another network, or damaged.
    """

    num_features = NUM_FEATURES

    def __init__(self, weights: Path) -> None:
        super().__init__()
        sha256 = file_sha256(weights)
        try:
            build = _network_of_package if sha256 == MEMBER_SHA256 else _network
            self.network = build(weights)
        # Readers and load_state_dict raise nearly anything for a file of another kind.
        except Exception as error:
            raise InceptionWeightsError(
                f"inception_weights={weights} is not torch-fidelity's file of Inception v3 "
                f"weights ({' '.join(str(error).split())[:200]}). Get it from "
                f"{WEIGHTS.partition('#')[0]}."
            ) from error
        self.eval()  # torch-fidelity does so where it extracts, before 0.4 not where it builds
        name = f"torch-fidelity {version('torch-fidelity')}, inception-v3-compat"
        self.evaluator = Evaluator(
            f"{name}, weights of {PACKAGE}" if sha256 == MEMBER_SHA256 else name,
            sha256,
            is_known=sha256 in (PUBLISHED_SHA256, MEMBER_SHA256),
        )
        """What makes numbers comparable."""

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        """Return the pooled features, in float32 whatever the process shortens elsewhere."""
        with tf32_convolutions(allowed=False):
            return self.network(images)[0]


def _network(weights: Path) -> nn.Module:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    # torch-fidelity reads the file without this guard: it must be one that needs none.
    torch.load(weights, map_location="cpu", weights_only=True)
    network: nn.Module = FeatureExtractorInceptionV3(
        "inception-v3-compat", [str(NUM_FEATURES)], str(weights)
    )
    return network


def _network_of_package(file: Path) -> nn.Module:
    with tempfile.TemporaryDirectory() as folder:  # torch-fidelity takes a file only
        converted = Path(folder, "inception.pth")
        torch.save(as_torch_fidelity_has_them(file), converted)
        return _network(converted)
