"""rFID equals torchmetrics' and torch-fidelity's on real photos."""

import hashlib
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse.linalg
import torch
import torch_fidelity
from numpy.typing import NDArray
from real_photos import real_photos
from torch_fidelity import feature_extractor_inceptionv3 as theirs
from torchmetrics.image.fid import FrechetInceptionDistance
from torchvision.transforms.functional import gaussian_blur

from vqgan_train.images.transforms import to_uint8
from vqgan_train.metrics import inception
from vqgan_train.metrics.frechet import FeatureSums, frechet_distance
from vqgan_train.metrics.inception import (
    NUM_FEATURES,
    WEIGHTS,
    InceptionFeatures,
)
from vqgan_train.system.errors import UserError


def random_weights(folder: Path) -> Path:
    """Write random weights of the network, because one server alone has the real ones."""
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        patch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(theirs.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = theirs.FeatureExtractorInceptionV3("random", ["2048"])
        for module in network.modules():  # torch's own are so small that all features are alike
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight)
    torch.save(network.state_dict(), folder / "inception.pth")
    return folder / "inception.pth"


def test_the_file_is_the_one_that_torch_fidelity_takes() -> None:
    assert WEIGHTS.partition("#")[0] == theirs.URL_INCEPTION_V3
    name, digest = WEIGHTS.partition("#sha256=")[::2]
    assert len(digest) == 64
    assert name.endswith(f"-{digest[:8]}.pth")


@pytest.mark.parametrize("content", [{}, {"fc.weight": torch.zeros(2)}, print])
def test_another_file_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(UserError, match="is not torch-fidelity's file of Inception"):
        InceptionFeatures(tmp_path / "other.pth")


def write_random_weights(folder: Path) -> tuple[Path, str]:
    file = random_weights(folder)
    return file, hashlib.sha256(file.read_bytes()).hexdigest()


def test_weights_that_are_not_the_published_ones_never_go_by_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, digest = write_random_weights(tmp_path)
    pinned = f"torch-fidelity {version('torch-fidelity')}, inception-v3-compat"
    evaluator = InceptionFeatures(file).evaluator
    assert str(evaluator) == (f"{pinned} (weights sha256 {digest[:8]}..., not the published ones)")
    assert evaluator.weights_sha256 == digest
    assert WEIGHTS.endswith(f"sha256={inception.PUBLISHED_SHA256}")
    monkeypatch.setattr(inception, "PUBLISHED_SHA256", digest)
    assert str(InceptionFeatures(file).evaluator) == pinned


def test_features_are_in_whole_float32_whatever_the_process_shortens(tmp_path: Path) -> None:
    network = InceptionFeatures(write_random_weights(tmp_path)[0])
    inside: list[bool] = []

    def spy(*_: object) -> None:
        inside.append(torch.backends.cudnn.allow_tf32)

    network.network.register_forward_pre_hook(spy)
    assert torch.backends.cudnn.allow_tf32, "torch's default is to shorten"
    network(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    assert inside == [False]
    assert torch.backends.cudnn.allow_tf32


@pytest.mark.slow
def test_the_distance_of_photos_is_torchmetrics_and_torch_fidelitys(tmp_path: Path) -> None:
    photos = to_uint8(real_photos(4, side=96))
    weights = random_weights(tmp_path)
    network = InceptionFeatures(weights)
    metric = FrechetInceptionDistance(feature_extractor_weights_path=str(weights), antialias=False)
    found = []
    for size in (5, 21):
        blurred = gaussian_blur(photos, [size, size])
        sums = [FeatureSums(NUM_FEATURES), FeatureSums(NUM_FEATURES)]
        for own, images in zip(sums, (photos, blurred), strict=True):
            own.add(network(images))
        found.append(frechet_distance(*sums))
        assert abs(frechet_distance(sums[0], sums[0])) < 1e-3 * found[-1]
    assert found[-1] == pytest.approx(_torch_fidelitys(weights, photos, blurred), rel=1e-4)
    metric.update(photos, real=True)
    metric.update(gaussian_blur(photos, [21, 21]), real=False)
    assert found[-1] == pytest.approx(float(metric.compute()), rel=1e-4)
    assert found == sorted(found)


class Images(torch.utils.data.Dataset[torch.Tensor]):
    """Dataset of images for torch-fidelity, because a TensorDataset returns tuples."""

    def __init__(self, pixels: torch.Tensor) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, place: int) -> torch.Tensor:
        return self.pixels[place]


def _torch_fidelitys(weights: Path, one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the FID of torch-fidelity's own command."""

    def root(product: NDArray[np.float64], disp: bool) -> tuple[NDArray[np.float64], float]:
        """Return a matrix with the trace of the root, which is all that torch-fidelity uses.

        With so few images the product has few eigenvalues. scipy's root takes 40 s, and scipy 1.18
        rejects the argument `disp`.
        """
        values = scipy.sparse.linalg.eigs(product, k=len(one) - 1, return_eigenvectors=False)
        matrix = np.zeros_like(product)
        matrix[0, 0] = np.sqrt(values.real.clip(min=0)).sum()
        return matrix, 0.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scipy.linalg, "sqrtm", root)
        return _measured(weights, one, other)


def _measured(weights: Path, one: torch.Tensor, other: torch.Tensor) -> float:
    measured = torch_fidelity.calculate_metrics(
        input1=Images(one),
        input2=Images(other),
        fid=True,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(weights),
        batch_size=2,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )
    return float(measured[torch_fidelity.KEY_METRIC_FID])
