"""The Lightning module: networks, losses, one optimizer; training and validation steps."""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from vqgan_train.checkpoint.reading import weights_under_our_names
from vqgan_train.checkpoint.weight_names import to_original
from vqgan_train.losses.adversarial import no_reduction
from vqgan_train.losses.lpips_files import VGG16
from vqgan_train.losses.lpips_weights import find_lpips_weights
from vqgan_train.losses.objective import Objective, StepTerms, ValidationTerms
from vqgan_train.metrics.codebook import codebook_statistics, token_counts
from vqgan_train.metrics.images import ImageMetric
from vqgan_train.metrics.validation import SIGNED_METRICS, add_up, means, validation_metrics
from vqgan_train.models import VQGAN, PatchDiscriminator, recompute_activations
from vqgan_train.system.errors import ShardError

TRAINING_METRICS = {
    "total": "loss/total",
    "reconstruction": "loss/reconstruction",
    "pixel": "loss/pixel",
    "perceptual": "loss/perceptual",
    "codebook": "loss/codebook",
    "adversarial": "loss/adversarial",
    "discriminator": "loss/discriminator",
    "adaptive_weight": "adversarial/weight",
    "real_logits": "adversarial/real_logits",
    "fake_logits": "adversarial/fake_logits",
}
"""Fields of `StepTerms`, and the names under which they are logged, after `train/`."""


class VQGANModule(LightningModule):
    """VQGAN training after Esser et al. 2021, "Taming Transformers" (arXiv:2012.09841).

    The generator minimises L1 + LPIPS + codebook loss + adversarial loss, where the weight of the
    adversarial loss follows from gradients at the last layer (equation 7 of the paper). The
    discriminator minimises the hinge loss.

    taming-transformers makes two passes per batch, with an optimizer for each network. Here both
    networks share one forward pass, one backward pass and one Adam, and get the same gradients:
    the discriminator sees a detached copy of the reconstruction, and `Objective` passes the
    gradient at that copy on to the generator. So Lightning's automatic optimization works,
    including accumulation and clipping, and `global_step` counts optimizer steps.

    A batch has `image`: (B, 3, H, W) float32 in [-1, 1], H and W divisible by
    `generator.downsampling`; B may be 0 in validation. All arguments are plain values, so that
    `VQGANModule.load_from_checkpoint(path)` works without a config.

    Args:
        model: keyword arguments of `VQGAN`.
        discriminator: keyword arguments of `PatchDiscriminator`.
        objective: keyword arguments of `Objective`.
        optimizer: keyword arguments of `torch.optim.Adam`.
        discriminator_optimizer: those for the discriminator's weights; None: `optimizer`.
        discriminator_start_step: first step in which the discriminator trains.
        adversarial_start_step: first step with the adversarial term, unless a warm-up delays it.
        lpips_weights: file with LPIPS' weights; None searches the usual places.
        decoder_only: train no part of the generator but its decoder and post_quant_conv, so that
            images keep their tokens; the encoder then has no backward pass and keeps no
            activations.
        recompute: recompute the generator's activations in the backward pass, to save memory.
        shares_adaptive_weight: compute one adaptive weight from the images of all ranks, instead
            of one per rank.
        validation_metrics: image metrics measured in validation besides the losses; see
            `metrics.validation.validation_metrics`.
        alexnet_weights: file with the weights of the metric `lpips_alexnet`; None searches the
            usual places.
    """

    def __init__(
        self,
        *,
        model: Mapping[str, Any],
        discriminator: Mapping[str, Any],
        objective: Mapping[str, Any],
        optimizer: Mapping[str, Any],
        discriminator_start_step: int,
        adversarial_start_step: int,
        discriminator_optimizer: Mapping[str, Any] | None = None,
        lpips_weights: str | None = None,
        decoder_only: bool = False,
        recompute: bool = False,
        shares_adaptive_weight: bool = False,
        validation_metrics: Sequence[str] = tuple(SIGNED_METRICS),
        alexnet_weights: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)  # loggers have the run's settings already
        self.generator = VQGAN(**model)
        if decoder_only:
            self.generator.freeze_tokens()
        if recompute:
            recompute_activations(self.generator)
        self.discriminator = PatchDiscriminator(
            in_channels=self.generator.decoder.conv_out.out_channels, **discriminator
        )
        self.objective = Objective(**objective)
        self.optimizer = dict(optimizer)
        self.discriminator_optimizer = discriminator_optimizer and dict(discriminator_optimizer)
        self.discriminator_start_step = discriminator_start_step
        self.adversarial_start_step = adversarial_start_step
        self.discriminator_warmup_end_step = 0
        """First step after `warm_up_discriminator`; the adversarial term starts no earlier."""
        self.lpips_weights = None if lpips_weights is None else Path(lpips_weights)
        self.reduce_gradients = self._mean_over_ranks if shares_adaptive_weight else no_reduction
        """Averages the adaptive weight's gradients over ranks, or returns them as they are."""
        self.validation_metrics = tuple(validation_metrics)
        self.alexnet_weights = None if alexnet_weights is None else Path(alexnet_weights)
        self._image_metrics: dict[str, ImageMetric] = {}
        self._token_counts = torch.zeros(0)
        self._validation_sums = torch.zeros(0)
        self._validation_sizes = [0, 0, 0]

    def warm_up_discriminator(self, steps: int) -> None:
        """Keep the adversarial term out of the loss for the discriminator's first `steps` steps."""
        self.discriminator_warmup_end_step = self.discriminator_start_step + steps

    def load_frozen_weights(self) -> None:
        """Load the weights of LPIPS and of the validation metrics, unless they are loaded.

        Raises:
            LpipsWeightsNotFoundError: no source has the weights.
            UserError: a configured file is missing or damaged, or holds other weights.
        """
        if not self.objective.lpips.is_loaded:
            self.objective.lpips.load_weights(
                find_lpips_weights(VGG16, self.lpips_weights, "loss.lpips_weights")
            )
        if not self._image_metrics:
            self._image_metrics = validation_metrics(self.validation_metrics, self.alexnet_weights)

    def setup(self, stage: str) -> None:
        """Load the weights of LPIPS and of the metrics, unless the stage is prediction."""
        if stage != "predict":
            self.load_frozen_weights()

    def forward(self, images: Tensor) -> Tensor:
        """Reconstruct images: (B, 3, H, W) in [-1, 1] to (B, 3, H, W) in about [-1, 1]."""
        return cast(Tensor, self.generator(images).reconstruction)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Make one Adam for the trained weights of both networks."""
        # Adam updates each weight independently, so this equals one Adam per network.
        # Only the fused kernels can skip a step on the device (training/callbacks/non_finite.py).
        adam = torch.optim.Adam(self._parameter_groups(), fused=True)
        # With True, fp16's GradScaler leaves unscaling to Adam, and clipping sees scaled gradients.
        adam._step_supports_amp_scaling = False
        return adam

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """Return Adam's groups: one of all trained weights, or one of each network."""
        generator, discriminator = (
            [weight for weight in network.parameters() if weight.requires_grad]
            for network in (self.generator, self.discriminator)
        )
        if self.discriminator_optimizer is None:
            return [{"params": [*generator, *discriminator], **self.optimizer}]
        return [
            {"params": generator, **self.optimizer},
            {"params": discriminator, **self.discriminator_optimizer},
        ]

    def on_train_start(self) -> None:
        """Give Adam this run's settings and memory layout, instead of the checkpoint's."""
        adam = cast(torch.optim.Optimizer, self.optimizers())
        for group, configured in zip(adam.param_groups, self._parameter_groups(), strict=True):
            group.update(configured)
        for weight, moments in adam.state.items():
            # The fused kernel pairs weights and moments by storage order and ignores strides.
            for name in ("exp_avg", "exp_avg_sq"):
                moments[name] = torch.empty_like(weight).copy_(moments[name])

    def training_step(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Compute the losses of one batch.

        Returns:
            `loss`: () float32, only for the backward pass. NaN if any loss is NaN or infinite, as
            with images of NaN, which stand for a batch that could not be read: all ranks then skip
            the step (training/callbacks/non_finite.py).
            `terms`: (10,) float32, detached, in the order of `TRAINING_METRICS`.
        """
        terms = self._losses(batch["image"], self.reduce_gradients)
        logged = torch.stack([getattr(terms, name) for name in TRAINING_METRICS])
        # A factor of NaN makes the gradient NaN, which DDP averages into that of all ranks.
        factor = torch.where(logged.sum().isfinite(), 1.0, torch.nan)
        return {"loss": terms.backward * factor, "terms": logged}

    def rehearse_step(self, shape: tuple[int, int, int, int]) -> None:
        """Run forward and backward pass of a training step on random images, without side effects.

        Gradients, buffers and random state stay as they are. It waits for no other rank, because
        another rank may fail before it gets here.

        Args:
            shape: (B, 3, H, W) of the images.
        """
        parameters = [p for p in self.parameters() if p.requires_grad]
        buffers_before = [buffer.clone() for buffer in self.buffers()]
        devices = [self.device] if self.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices=devices):
                images = torch.rand(shape, device=self.device) * 2 - 1
                loss = self._losses(images, no_reduction).backward
                # Not loss.backward(), which would fill .grad and start DDP's all-reduce.
                torch.autograd.grad(loss, parameters, allow_unused=True)
        finally:
            for buffer, before in zip(self.buffers(), buffers_before, strict=True):
                buffer.copy_(before)

    def _losses(self, images: Tensor, reduce_gradients: Callable[[Tensor], Tensor]) -> StepTerms:
        generated = self.generator(images)
        adversarial_start = max(self.adversarial_start_step, self.discriminator_warmup_end_step)
        terms: StepTerms = self.objective(
            images,
            generated.reconstruction,
            generated.latents,
            generated.codes,
            discriminate=self.discriminator,
            last_layer=self.generator.decoder.conv_out.weight,
            adversarial_factor=float(self.global_step >= adversarial_start),
            discriminator_factor=float(self.global_step >= self.discriminator_start_step),
            reduce_gradients=reduce_gradients,
        )
        return terms

    def on_validation_epoch_start(self) -> None:
        """Set the sums of the last validation to 0."""
        size = self.generator.quantizer.codebook.num_embeddings
        self._token_counts = torch.zeros(size, dtype=torch.int64, device=self.device)
        metrics = len(self.validation_metrics)
        # Number of images and sum of each loss; sum of each metric; number of images per metric.
        sizes = [1 + len(ValidationTerms._fields), metrics, metrics]
        self._validation_sums = torch.zeros(sum(sizes), device=self.device)
        self._validation_sizes = sizes

    def validation_step(self, batch: Mapping[str, Any]) -> None:
        """Add the losses, metrics and tokens of one batch to the sums; its `image` may be empty."""
        images = batch["image"]
        if len(images) == 0:
            return
        generated = self.generator(images)
        terms = self.objective.evaluate(
            images, generated.reconstruction, generated.latents, generated.codes
        )
        measured, counts = add_up(self._image_metrics, images, generated.reconstruction)
        losses = torch.stack([torch.ones_like(terms[0]), *terms]) * len(images)
        self._validation_sums += torch.cat([losses, measured, counts])
        self._token_counts += token_counts(generated.tokens, len(self._token_counts))

    def on_validation_epoch_end(self) -> None:
        """Reduce the sums over ranks, and put the means into `trainer.callback_metrics`.

        Raises:
            ShardError: no validation image could be read on any rank.
        """
        sums = torch.split(self._sum_over_ranks(self._validation_sums), self._validation_sizes)
        (num_images, *losses), measured, counts = sums
        if num_images == 0:
            raise ShardError(
                "No image of data.val_shards could be read. Check that these shards hold images."
            )
        names = (
            *(f"val/loss/{term}" for term in ValidationTerms._fields),
            *(f"val/{metric}" for metric in self.validation_metrics),
        )
        results = [*(loss / num_images for loss in losses), *means(measured, counts)]
        codebook = codebook_statistics(self._sum_over_ranks(self._token_counts))
        self.log_dict(
            {
                **dict(zip(names, results, strict=True)),
                "val/codebook/used": codebook.codes_used,
                "val/codebook/dead": codebook.dead_codes,
                "val/codebook/perplexity": codebook.perplexity,
                "val/codebook/entropy": codebook.entropy_bits,
            },
            logger=False,  # callbacks/metrics_log.py logs them at the number of optimizer steps
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store weights under taming-transformers' names, and no state of Lightning's loops."""
        weights = {name: weight.contiguous() for name, weight in checkpoint["state_dict"].items()}
        checkpoint["state_dict"] = to_original(weights)
        checkpoint["warm_step"] = self.discriminator_warmup_end_step
        del checkpoint["loops"]  # see set_step_count

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Rename the weights to this package's names; fit Adam's state and the step count."""
        checkpoint["state_dict"] = weights_under_our_names(
            checkpoint["state_dict"], Path("the checkpoint")
        )
        self.discriminator_warmup_end_step = checkpoint["warm_step"]
        sizes = [len(group["params"]) for group in self._parameter_groups()]
        for state in checkpoint.get("optimizer_states", []):
            state["param_groups"] = regroup(state["param_groups"], sizes)
        if self._trainer is not None:
            set_step_count(self._trainer, checkpoint["global_step"])

    def _sum_over_ranks(self, values: Tensor) -> Tensor:
        return cast(Tensor, self.trainer.strategy.reduce(values, reduce_op="sum"))

    def _mean_over_ranks(self, values: Tensor) -> Tensor:
        return cast(Tensor, self.trainer.strategy.reduce(values, reduce_op="mean"))


def regroup(groups: Sequence[Mapping[str, Any]], sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Divide the weights of an optimizer's state anew, because its run had other groups.

    Args:
        groups: `param_groups` of the state; together they list all weights in their order.
        sizes: number of weights in each of the new groups.
    """
    numbers = iter([number for group in groups for number in group["params"]])
    return [{**groups[0], "params": list(islice(numbers, size))} for size in sizes]


def set_step_count(trainer: Trainer, step: int) -> None:
    """Make a trainer continue at an optimizer step, as if it had made the steps before.

    Lightning's own loop state records in which hook a checkpoint was written, and resuming from
    some of the hooks repeats or skips a validation. Our checkpoints are written between two steps,
    where the number of steps is the whole state.
    """
    loop = trainer.fit_loop.epoch_loop
    assert hasattr(loop, "_batches_that_stepped"), "this Lightning counts steps in another place"
    loop._batches_that_stepped = step
    loop.automatic_optimization.optim_progress.optimizer.step.total.completed = step
    loop.batch_progress.total.ready = step * trainer.accumulate_grad_batches
