"""rFID's network is torch-fidelity's, and its distance torchmetrics', on real photos."""

from pathlib import Path

import pytest
import torch
from real_photos import real_photos
from torch_fidelity import feature_extractor_inceptionv3 as theirs
from torchmetrics.image.fid import FrechetInceptionDistance
from torchvision.transforms.functional import gaussian_blur

from vqgan_train.data.transforms import to_uint8
from vqgan_train.evaluation.frechet import FeatureSums, frechet_distance
from vqgan_train.evaluation.inception import (
    NUM_FEATURES,
    WEIGHTS,
    InceptionFeatures,
    InceptionWeightsError,
)


def random_weights(folder: Path) -> Path:
    """Weights of that network as the seed 0 draws them: the real ones are on one server only."""
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
    with pytest.raises(InceptionWeightsError, match="is not torch-fidelity's file of Inception"):
        InceptionFeatures(tmp_path / "other.pth")


@pytest.mark.slow
def test_the_distance_of_photos_is_torchmetrics(tmp_path: Path) -> None:
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
    metric.update(photos, real=True)
    metric.update(gaussian_blur(photos, [21, 21]), real=False)
    assert found[-1] == pytest.approx(float(metric.compute()), rel=1e-4)
    assert found == sorted(found)
