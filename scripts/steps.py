"""Training steps to measure and compare: variants of ours, the original's and a modern trainer's.

All start from the same random weights, those of the original's initialisation.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from modern_step import DISCRIMINATOR_LAYERS, ModernTrainer
from pages import ROOT
from skimage.data import astronaut, chelsea, coffee, rocket
from torch import Tensor
from torchvision.transforms.functional import center_crop, resize

from vqgan_train.checkpoint.reading import weights_under_our_names
from vqgan_train.config.checks import config_dir, register_schema, to_config
from vqgan_train.config.run import Config
from vqgan_train.losses.lpips_files import VGG16
from vqgan_train.losses.lpips_weights import find_lpips_weights
from vqgan_train.training.callbacks.compilation import Compilation
from vqgan_train.training.callbacks.non_finite import SkipNonFinite
from vqgan_train.training.setup.networks import build_module

sys.path.insert(0, str(ROOT / "tests"))
from reference import peer_loss, peer_vqgan  # builds the original for tests

Step = Callable[[Tensor], float]
"""Function that trains one step on images (B, 3, H, W) and returns the generator's loss."""

DECODER_ONLY = ("experiment=decoder", "model.init_from=-")
"""Settings of the recipe that keeps encoder and codebook; no weights are read from `-`."""

VARIANTS: dict[str, tuple[str, ...]] = {
    "ours": (),
    "ours, contiguous": ("trainer.memory_format=contiguous",),
    "ours, recomputing": ("trainer.recompute_activations=true",),
    "ours, bf16": ("trainer.precision=bf16",),
    "ours, bf16, recomputing": ("trainer.precision=bf16", "trainer.recompute_activations=true"),
    "ours, bf16, decoder only": ("trainer.precision=bf16", *DECODER_ONLY),
    "ours, compiled": ("trainer.compile=true",),
    "ours, bf16, contiguous": ("trainer.precision=bf16", "trainer.memory_format=contiguous"),
    "ours, bf16, compiled": ("trainer.precision=bf16", "trainer.compile=true"),
}
"""Settings of each variant of our step that differ from the recipe's."""

MODERN = {"modern": None, "modern, bf16": torch.bfloat16}
"""The modern trainer's step (modern_step.py) by precision: autocast's dtype."""

SIDES = ("original", *MODERN, *VARIANTS)

MODELS = tuple(sorted(path.stem for path in (config_dir() / "model").glob("*.yaml")))


def make_step(side: str, model: str, images: tuple[int, int, int, int], device: str) -> Step:
    """Build the step of one side of the comparison.

    Args:
        side: one of `SIDES`.
        model: name of a file in conf/model.
        images: shape (B, 3, H, W) of the step's images.
        device: cpu or cuda.
    """
    if side == "original":
        return _originals_step(make_config(model, images), device)
    if side in MODERN:
        return _modern_step(make_config(model, images), device, MODERN[side])
    return _our_step(make_config(model, images, *VARIANTS[side]), images, device)


def sample_images(count: int, side: int) -> Tensor:
    """Return centre crops of up to four sample photos: (B, 3, side, side) in [-1, 1]."""
    photos = (astronaut(), chelsea(), coffee(), rocket())
    images = []
    for photo in photos[:count]:
        pixels = torch.from_numpy(photo[..., :3].copy()).permute(2, 0, 1)
        square = center_crop(pixels, [min(pixels.shape[1:])] * 2)
        images.append(resize(square, [side, side], antialias=True).float() / 127.5 - 1)
    return torch.stack(images)


def make_config(model: str, images: tuple[int, int, int, int], *overrides: str) -> Config:
    """Compose the recipe's settings with another model, for batches of shape (B, 3, H, W)."""
    settings = (
        "experiment=finetune",
        f"model={model}",
        "model.init_from=null",
        "data.train_shards=-",
        "data.val_shards=-",
        f"data.batch_size={images[0]}",
        f"data.image_size={images[2]}",
        f"data.resize={images[2]}",
        "trainer.devices=1",
        "trainer.precision=fp32",
        *overrides,
    )
    register_schema(Config)
    latest = list({setting.split("=")[0]: setting for setting in settings}.values())
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return to_config(compose("train", overrides=latest), Config)


def _our_step(config: Config, images: tuple[int, int, int, int], device: str) -> Step:
    """Build our step: what Lightning does with our module, without Lightning."""
    module = build_module(config).train()
    peer, loss = _original(config)
    theirs = {**peer.state_dict(), **{f"loss.{n}": w for n, w in loss.state_dict().items()}}
    weights = weights_under_our_names(theirs, Path("the original"))
    known = module.state_dict()
    module.load_state_dict({**known, **{n: w for n, w in weights.items() if n in known}})
    module.to(device)
    module.discriminator_warmup_end_step = 0
    adam = module.configure_optimizers()
    non_finite = SkipNonFinite(max_in_row=20, every_steps=1)
    dtype = torch.bfloat16 if config.trainer.precision.value == "bf16-mixed" else None
    plugin = SimpleNamespace(
        train_step_context=lambda: torch.autocast(device, dtype, enabled=dtype is not None)
    )
    alone = SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision)
    trainer: Any = SimpleNamespace(
        accumulate_grad_batches=1, precision_plugin=plugin, strategy=alone
    )
    non_finite.on_train_start(trainer, module)
    if config.trainer.compile:
        torch._dynamo.reset()
        Compilation(images).on_train_start(trainer, module)
        if "forward" not in vars(module.generator.encoder):
            raise RuntimeError("nothing was compiled, so there is nothing to measure")

    def step(batch: Tensor) -> float:
        non_finite.on_train_batch_start(trainer, module, {"image": batch}, 0)
        with plugin.train_step_context():
            outputs = module.training_step({"image": batch})
        outputs["loss"].backward()
        non_finite.on_before_optimizer_step(trainer, module, adam)
        adam.step()
        adam.zero_grad(set_to_none=True)
        return float(outputs["terms"][0])

    return step


def _originals_step(config: Config, device: str) -> Step:
    """Build the original's step: two optimizers with a generator pass each, as in Lightning 1.0."""
    peer, loss = _original(config)
    peer.to(device).train()
    loss.to(device).train()
    loss.perceptual_loss.eval()  # its dropout would make the losses incomparable
    rate = config.optim.learning_rate * config.data.batch_size
    generator, discriminator = list(peer.parameters()), list(loss.discriminator.parameters())
    optimizers = [
        torch.optim.Adam(w, lr=rate, betas=(0.5, 0.9)) for w in (generator, discriminator)
    ]

    def step(batch: Tensor) -> float:
        with tf32_allowed():
            losses = []
            for turn, optimizer in enumerate(optimizers):
                for player, weights in enumerate((generator, discriminator)):
                    for weight in weights:
                        weight.requires_grad_(player == turn)
                reconstruction, codebook_loss = peer(batch)
                value, _ = loss(
                    codebook_loss,
                    batch,
                    reconstruction,
                    turn,
                    1,
                    last_layer=peer.get_last_layer(),
                    split="train",
                )
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                losses.append(value.detach())
        return float(losses[0])

    return step


def _modern_step(config: Config, device: str, dtype: torch.dtype | None) -> Step:
    """Build the modern trainer's step, from the original's classes and weights."""
    peer, loss = _original(config, DISCRIMINATOR_LAYERS)
    trainer = ModernTrainer(peer, loss.perceptual_loss, loss.discriminator, device, dtype)

    def step(batch: Tensor) -> float:
        with tf32_allowed():
            return trainer.step(batch).generator

    return step


def _original(config: Config, discriminator_layers: int | None = None) -> tuple[Any, Any]:
    """Build the original's model, and its loss module, which contains the discriminator.

    Args:
        config: settings of the model and the loss.
        discriminator_layers: None takes the configured number.
    """
    peer = peer_vqgan(**asdict(config.model.architecture))
    loss = peer_loss(
        find_lpips_weights(VGG16),
        disc_start=0,
        disc_num_layers=discriminator_layers or config.model.discriminator.num_layers,
        disc_ndf=config.model.discriminator.channels,
        disc_weight=config.loss.adversarial_weight,
        codebook_weight=config.loss.codebook_weight,
        perceptual_weight=config.loss.perceptual_weight,
    )
    return peer, loss


@contextlib.contextmanager
def tf32_allowed() -> Iterator[None]:
    """Allow TF32 for fp32 matrix products on a GPU, as torch did by default in 2021."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
