"""ONNX graphs of a model: what onnxruntime computes with them, and that wrong ones are refused."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clear_tokens import clear_images
from factories import tiny_images, tiny_vqgan
from PIL import Image
from tiny_exports import ARCHITECTURES, PLAIN_RESAMPLING, tiny_networks, write_checkpoint
from torch import Tensor

from vqgan_train.models import VQGAN
from vqgan_train.release import conversion, onnx_graphs
from vqgan_train.release.conversion import Agreement
from vqgan_train.release.onnx_graphs import (
    DECODER,
    ENCODER,
    ONNX_PACKAGES,
    compare_graphs,
    decode_grid,
    encode_grid,
    export_graphs,
)
from vqgan_train.system.errors import ExportError, UserError
from vqgan_train.system.packages import require_packages


@pytest.fixture(autouse=True)
def small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "PROBE_SIDE", 32)


def test_packages_that_are_missing_are_named() -> None:
    with pytest.raises(UserError) as raised:
        require_packages("onnx", "format=onnx needs", "torch", "no_onnx", "no_runtime")
    assert str(raised.value) == (
        "format=onnx needs no_onnx, no_runtime, which are not installed: "
        "pip install 'vqgan_train[onnx]'"
    )


# The comparison, with another torch model in the place of the graphs.


def stand_in(monkeypatch: pytest.MonkeyPatch, other: VQGAN) -> None:
    def run(graph: Path, values: Tensor) -> Tensor:
        compute = {ENCODER: encode_grid, DECODER: decode_grid}[graph.name]
        return compute(other, values)

    monkeypatch.setattr(onnx_graphs, "_run", run)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "quantizer.codebook.weight",
            lambda codes: codes.roll(1, 0),
            "512 of 512 tokens are wrong",
        ),
        ("decoder.conv_out.bias", lambda bias: bias + 0.25, "differ by up to 0.25"),
        ("decoder.conv_out.bias", lambda bias: bias * torch.nan, "differ by up to nan"),
    ],
)
def test_graphs_with_other_results_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, change: Any, message: str
) -> None:
    other = tiny_vqgan().eval()
    with torch.no_grad():
        weight = other.get_parameter(name)
        weight.copy_(change(weight.clone()))
    stand_in(monkeypatch, other)
    with pytest.raises(ExportError, match=message):
        compare_graphs(tiny_vqgan().eval(), tmp_path, tiny_images())


def test_a_token_may_be_another_only_if_its_code_is_as_near(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model, images = tiny_vqgan().eval(), tiny_images()
    token = model.encode(images)[0, 0]
    twin = (token + 1) % 64
    codes = model.quantizer.codebook.weight
    with torch.no_grad():
        codes[twin] = codes[token]
    tokens = encode_grid(model, images)
    swapped = torch.where(tokens == min(token, twin), max(token, twin), tokens)
    num_swapped = int((swapped != tokens).sum())
    assert num_swapped > 0

    def run(graph: Path, values: Tensor) -> Tensor:
        return swapped if graph.name == ENCODER else decode_grid(model, values)

    monkeypatch.setattr(onnx_graphs, "_run", run)
    assert compare_graphs(model, tmp_path, images) == Agreement(512, 512 - num_swapped, 0.0)
    with torch.no_grad():
        codes[max(token, twin)] *= 1.5
    with pytest.raises(ExportError, match=f"{num_swapped} of 512 tokens are wrong"):
        compare_graphs(model, tmp_path, images)


# The graphs.


def needs_onnx() -> None:
    for package in ONNX_PACKAGES:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


IN_ONNX = {**ARCHITECTURES, "plain resampling": PLAIN_RESAMPLING}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "grey in, RGBA out", "plain resampling"])
@torch.no_grad()
def test_onnxruntime_gives_the_same_at_other_sizes(tmp_path: Path, name: str) -> None:
    needs_onnx()
    networks = tiny_networks(**IN_ONNX[name])
    path = write_checkpoint(tmp_path / "last.ckpt", networks)
    made = export_graphs(path, tmp_path / "onnx")
    assert made.agreement.equal_tokens >= 0.999 * made.agreement.num_tokens
    assert made.agreement.num_tokens == 4 * 16**2 + 16 * 17
    assert made.omits_discriminator
    assert set(made.files) == set((tmp_path / "onnx").iterdir())
    model = VQGAN.from_weights(networks.architecture, networks.generator, path)
    channels = networks.architecture["in_channels"]
    for height, width, count in ((8, 44, 1), (20, 6, 3)):
        images = clear_images(
            model,
            lambda seed, size=(height, width): tiny_images(1, *size, seed=seed, channels=channels),
            count,
        )
        tokens = onnx_graphs._run(tmp_path / "onnx" / ENCODER, images)
        assert torch.equal(tokens, encode_grid(model, images))
        assert tokens.shape == (count, height // 2, width // 2)
        decoded = onnx_graphs._run(tmp_path / "onnx" / DECODER, tokens)
        assert (decoded - decode_grid(model, tokens)).abs().max() < 1e-4


@pytest.mark.slow
def test_an_export_again_is_the_same_and_says_nothing_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_onnx()
    path = write_checkpoint(tmp_path / "last.ckpt", tiny_networks())
    first = export_graphs(path, tmp_path / "onnx")
    assert export_graphs(path, tmp_path / "onnx") == first, "different bytes would be refused"
    for file in first.files:
        content = file.read_bytes()
        assert b".py" not in content
        assert str(tmp_path).encode() not in content
        assert (b"last.ckpt" in content) == (file.suffix == ".onnx")

    Image.fromarray(np.full((50, 70, 3), 200, np.uint8)).save(tmp_path / "onnx" / "photo.jpg")
    (snippet,) = re.findall(
        r"```python\n(.*?)```", (tmp_path / "onnx" / "README.md").read_text(), re.DOTALL
    )
    monkeypatch.chdir(tmp_path / "onnx")
    names: dict[str, Any] = {}
    exec(snippet, names)
    assert names["tokens"].shape == (1, 16, 16)
    assert abs(float(names["images"].mean()) - (200 / 127.5 - 1)) < 0.02
    with Image.open("decoded.png") as decoded:
        assert decoded.size == (32, 32)


@pytest.mark.slow
def test_wrong_graphs_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_onnx()
    path = write_checkpoint(tmp_path / "last.ckpt", tiny_networks())
    write = onnx_graphs.write_graphs

    def write_another(model: VQGAN, origin: dict[str, str], folder: Path) -> None:
        other = tiny_vqgan().eval()
        with torch.no_grad():
            other.decoder.conv_out.bias.add_(0.5)
        write(other, origin, folder)

    monkeypatch.setattr(onnx_graphs, "write_graphs", write_another)
    with pytest.raises(ExportError, match=r"32 x 32 pixels: 0 of 1024 .* differ by up to 0\.5"):
        export_graphs(path, tmp_path / "onnx")
    assert list(tmp_path.iterdir()) == [path]
