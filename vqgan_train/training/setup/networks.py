"""Build the networks from their settings, and give them the weights that they start from."""

import logging
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from vqgan_train.checkpoint.architecture import network_differences
from vqgan_train.checkpoint.fetching import fetch_checkpoint
from vqgan_train.checkpoint.load_report import LoadReport
from vqgan_train.checkpoint.reading import read_checkpoint, weights_under_our_names
from vqgan_train.config.model import AdaptiveWeightScope, TrainedPart
from vqgan_train.config.run import Config
from vqgan_train.config.trainer import MemoryFormat
from vqgan_train.training.lightning.module import VQGANModule
from vqgan_train.training.setup.quantities import learning_rate, learning_rate_factor

log = logging.getLogger(__name__)

MEMORY_FORMATS = {
    MemoryFormat.channels_last: torch.channels_last,
    MemoryFormat.contiguous: torch.contiguous_format,
}


def build_module(config: Config) -> VQGANModule:
    """Build the networks with random weights, LPIPS and validation metrics with published ones."""
    loss, optim = config.loss, config.optim
    generator = {"lr": learning_rate(config), "betas": tuple(optim.betas)}
    discriminator = dict(generator)
    if optim.discriminator_learning_rate is not None:
        discriminator["lr"] = optim.discriminator_learning_rate * learning_rate_factor(config)
    if optim.discriminator_betas is not None:
        discriminator["betas"] = tuple(optim.discriminator_betas)
    module = VQGANModule(
        model=asdict(config.model.architecture),
        discriminator=asdict(config.model.discriminator),
        objective={
            "perceptual_weight": loss.perceptual_weight,
            "adversarial_weight": loss.adversarial_weight,
            "codebook_weight": loss.codebook_weight,
            "commitment_weight": loss.commitment_weight,
            "legacy_codebook_loss": loss.legacy_codebook_loss,
        },
        optimizer=generator,
        discriminator_optimizer=None if discriminator == generator else discriminator,
        discriminator_start_step=loss.discriminator_start_step,
        adversarial_start_step=loss.adversarial_start_step,
        lpips_weights=loss.lpips_weights,
        decoder_only=config.model.trained is TrainedPart.decoder,
        recompute=config.trainer.recompute_activations,
        shares_adaptive_weight=loss.adaptive_weight_scope is AdaptiveWeightScope.mean,
        validation_metrics=[metric.value for metric in config.run.val_metrics],
        alexnet_weights=config.run.alexnet_weights,
    )
    module.load_frozen_weights()
    return module.to(memory_format=MEMORY_FORMATS[config.trainer.memory_format])


def initialise(module: VQGANModule, config: Config) -> None:
    """Give the networks the weights that a run without a checkpoint of its own starts from.

    For the first loss.discriminator_warmup_steps of a discriminator with random weights, the
    generator's loss leaves it out.

    Raises:
        CheckpointError: model.init_from cannot be fetched or read, or does not fit.
    """
    model, discriminator_is_new = config.model, True
    if model.init_from is not None:
        path = fetch_checkpoint(model.init_from, "model.init_from")
        discriminator_is_new = load_weights(module, path).discriminator_is_new
    elif model.code_scale is not None:
        module.generator.quantizer.draw_codes(model.code_scale)
    if discriminator_is_new:
        module.warm_up_discriminator(config.loss.discriminator_warmup_steps)
    if discriminator_is_new and model.init_from is not None:
        log.warning(
            "WARNING: %s holds no discriminator. A new one trains, and the generator's loss leaves "
            "it out before step %d (loss.discriminator_warmup_steps=%d).",
            model.init_from,
            module.discriminator_warmup_end_step,
            config.loss.discriminator_warmup_steps,
        )


def load_weights(module: VQGANModule, path: Path) -> LoadReport:
    """Load a checkpoint's generator into the module, and its discriminator if it has one.

    Raises:
        CheckpointError: the file cannot be read, or its weights do not fit the networks.
    """
    weights = weights_under_our_names(read_checkpoint(path)["state_dict"], path)
    report = LoadReport.compare(module.state_dict(), weights)
    differences = network_differences(
        weights,
        model=module.hparams["model"],
        discriminator=module.hparams["discriminator"],
    )
    report.require_fit(
        path,
        f"Its architecture is another: {differences}. Set model.* as in the weights."
        if differences
        else "It lacks weights, or mixes those of several models.",
    )
    module.load_state_dict({**module.state_dict(), **weights})
    log.info("model.init_from=%s\n%s", path, report)
    return report


def num_weights(network: nn.Module) -> int:
    """Count the parameters of a network."""
    return sum(weight.numel() for weight in network.parameters())
