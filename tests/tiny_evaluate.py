"""Runs the evaluate command in this process, with weights that need no download."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from factories import random_lpips_weights
from tiny_tokens import run
from torch import Tensor, nn

from vqgan_train import evaluate
from vqgan_train.evaluation import metric_suite
from vqgan_train.losses.lpips_files import ALEXNET
from vqgan_train.metrics.frechet import Evaluator

SMALL = ("resize=32", "image_size=32", "batch_size=4", "num_workers=0", "accelerator=cpu")


class TinyFeatures(nn.Module):
    """Network for rFID with random weights of a fixed seed."""

    num_features = 6
    evaluator = Evaluator("six features of a seed", "0" * 64, is_known=True)

    def __init__(self, _: Path) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(self.num_features, 3, 8, 8, generator=generator)

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, 6) of images (B, 3, H, W) uint8."""
        convolved = nn.functional.conv2d(images.float() / 255, self.weight, stride=4)
        return convolved.relu().mean(dim=(2, 3))


def with_tiny_features(patch: pytest.MonkeyPatch) -> None:
    """Let the command use TinyFeatures instead of Inception."""
    patch.setattr(metric_suite, "fetch_checkpoint", lambda source, setting: Path(source))
    patch.setattr(metric_suite, "InceptionFeatures", TinyFeatures)


def write_weights(folder: Path) -> tuple[str, ...]:
    """Write random weights of both LPIPS; return the settings that name them."""
    vgg, alexnet = folder / "vgg.safetensors", folder / "alexnet.safetensors"
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(shape, generator=generator) * 0.05
        if name.startswith("convolutions")
        else torch.rand(shape, generator=generator)
        for name, shape in ALEXNET.shapes().items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(weights, alexnet)
    safetensors.torch.save_file(random_lpips_weights(), vgg)
    return (f"lpips_weights={vgg}", f"alexnet_weights={alexnet}")


def run_evaluate(checkpoints: list[Path], output: Path, *arguments: str) -> int:
    """Run the command with small and quick defaults; `arguments` override them."""
    given = {argument.split("=")[0] for argument in arguments}
    own = [f"checkpoint=[{','.join(map(str, checkpoints))}]", f"output={output}", *SMALL]
    own += ["bootstrap.resamples=20", "faces.detect=false", "pictures=1"]
    defaults = [default for default in own if default.split("=")[0] not in given]
    return run(evaluate, *defaults, *arguments)
