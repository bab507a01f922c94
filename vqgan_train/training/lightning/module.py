"""Generator, discriminator and objective in one Lightning module: one step, one optimizer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from vqgan_train.checkpoint import to_original, weights_under_our_names
from vqgan_train.losses import (
    Objective,
    StepTerms,
    ValidationTerms,
    find_lpips_weights,
    this_batch_alone,
)
from vqgan_train.metrics.codebook import codebook_use, token_counts
from vqgan_train.metrics.validation import IMAGE_METRICS, ImageMetric, add_up, image_metrics, means
from vqgan_train.models import VQGAN, PatchDiscriminator, recompute_activations
from vqgan_train.system.errors import ShardError
from vqgan_train.training.lightning.checkpoint_io import set_clock

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
"""Fields of StepTerms and the names they are logged under, after `train/`."""


BLANK_SIDE = 64
"""Pixels a side of what stands in for a batch without an image; enough for every loss."""


class VQGANModule(LightningModule):
    """What is trained.

    All arguments are plain, so that `VQGANModule.load_from_checkpoint(path)` works everywhere.

    Args:
        model: keyword arguments of `VQGAN`.
        discriminator: keyword arguments of `PatchDiscriminator`.
        objective: keyword arguments of `Objective`.
        optimizer: keyword arguments of `torch.optim.Adam`.
        discriminator_start_step: step from which the discriminator trains.
        adversarial_start_step: step from which the generator feels it.
        lpips_weights: file with LPIPS' weights; None searches the usual places.
        recompute: save memory by computing the generator's activations twice.
        shares_adaptive_weight: balance the adversarial term over the images of all ranks, and not
            of each rank by itself.
        validation_metrics: what validation measures besides the losses; see `image_metrics`.
        alexnet_weights: file with the weights of one of those; None searches the usual places.
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
        lpips_weights: str | None = None,
        recompute: bool = False,
        shares_adaptive_weight: bool = False,
        validation_metrics: Sequence[str] = tuple(IMAGE_METRICS),
        alexnet_weights: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)  # loggers have the run's settings already
        self.generator = VQGAN(**model)
        if recompute:
            recompute_activations(self.generator)
        self.discriminator = PatchDiscriminator(
            in_channels=self.generator.decoder.conv_out.out_channels, **discriminator
        )
        self.objective = Objective(**objective)
        self.optimizer = dict(optimizer)
        self.discriminator_start_step = discriminator_start_step
        self.adversarial_start_step = adversarial_start_step
        self.warm_step = 0
        """Step from which the discriminator knows enough for the generator to feel it."""
        self.lpips_weights = None if lpips_weights is None else Path(lpips_weights)
        self.pool = self._mean_over_ranks if shares_adaptive_weight else this_batch_alone
        """Brings ranks together where the adaptive weight is made."""
        self.validation_metrics = tuple(validation_metrics)
        self.alexnet_weights = None if alexnet_weights is None else Path(alexnet_weights)
        self._image_metrics: dict[str, ImageMetric] = {}
        self._token_counts = torch.zeros(0)
        self._validation_sums = torch.zeros(0)
        self._validation_sizes = [0, 0, 0]

    def warm_up_discriminator(self, steps: int) -> None:
        """Let a discriminator without trained weights train alone for some steps."""
        self.warm_step = self.discriminator_start_step + steps

    def load_lpips(self) -> None:
        """Fetch the weights of LPIPS and of what validation measures with, once.

        Raises:
            LpipsWeightsNotFoundError: there is no way to get them.
            LpipsWeightsError: a configured file is missing or holds other weights.
        """
        if not self.objective.lpips.is_loaded:
            self.objective.lpips.load_weights(find_lpips_weights(self.lpips_weights))
        if not self._image_metrics:
            self._image_metrics = image_metrics(self.validation_metrics, self.alexnet_weights)

    def setup(self, stage: str) -> None:
        """Make ready to compute losses; every stage but prediction does."""
        if stage != "predict":
            self.load_lpips()

    def forward(self, images: Tensor) -> Tensor:
        """Reconstruct images (B, 3, H, W) in [-1, 1]."""
        return cast(Tensor, self.generator(images).reconstruction)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One Adam for both players: it works on each weight alone, so this equals one for each."""
        weights = [*self.generator.parameters(), *self.discriminator.parameters()]
        # Fused: the one whose kernels can leave a step out (training/callbacks/non_finite.py).
        adam = torch.optim.Adam(weights, **self.optimizer, fused=True)
        # fp16's GradScaler would leave unscaling to it, and clipping would see scaled gradients.
        adam._step_supports_amp_scaling = False
        return adam

    def on_train_start(self) -> None:
        """Use the optimizer's settings and memory layout of this run, not a checkpoint's."""
        adam = cast(torch.optim.Optimizer, self.optimizers())
        for group in adam.param_groups:
            group.update(self.optimizer)
        for weight, moments in adam.state.items():
            # The fused kernel goes through weight and moments side by side, whatever their strides.
            for name in ("exp_avg", "exp_avg_sq"):
                moments[name] = torch.empty_like(weight).copy_(moments[name])

    def training_step(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """One batch's losses: `loss` to go back from, and the terms, detached.

        Of a batch in which not one image could be read they are not finite, so that its step is
        left out on all ranks (training/callbacks/non_finite.py).
        """
        images = batch["image"]
        if len(images) == 0:
            side = max(BLANK_SIDE, self.generator.downsampling)
            images = images.new_full((1, images.shape[1], side, side), torch.nan)
        generated = self.generator(images)
        adversarial_start = max(self.adversarial_start_step, self.warm_step)
        terms: StepTerms = self.objective(
            images,
            generated.reconstruction,
            generated.latents,
            generated.codes,
            discriminate=self.discriminator,
            last_layer=self.generator.decoder.conv_out.weight,
            adversarial_factor=float(self.global_step >= adversarial_start),
            discriminator_factor=float(self.global_step >= self.discriminator_start_step),
            pool=self.pool,
        )
        logged = torch.stack([getattr(terms, name) for name in TRAINING_METRICS])
        # A loss that is not finite makes its gradient so: then all ranks leave the step out.
        judged = terms.backward * torch.where(logged.sum().isfinite(), 1.0, torch.nan)
        return {"loss": judged, "terms": logged}

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation."""
        size = self.generator.quantizer.codebook.num_embeddings
        self._token_counts = torch.zeros(size, dtype=torch.int64, device=self.device)
        metrics = len(self.validation_metrics)
        # How many images and the sum of each loss; then metrics, and how many images of each.
        sizes = [1 + len(ValidationTerms._fields), metrics, metrics]
        self._validation_sums = torch.zeros(sum(sizes), device=self.device)
        self._validation_sizes = sizes

    def validation_step(self, batch: Mapping[str, Any]) -> None:
        """Add one batch to the sums, unless none of its images could be read."""
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
        """Reduce the sums over ranks; `trainer.callback_metrics` then holds the results.

        Raises:
            ShardError: there was no image.
        """
        sums = torch.split(self._sum_over_ranks(self._validation_sums), self._validation_sizes)
        (num_images, *losses), measured, counts = sums
        if num_images == 0:
            raise ShardError(
                "Not one image of data.val_shards could be read. Check that they hold images."
            )
        names = (
            *(f"val/loss/{term}" for term in ValidationTerms._fields),
            *(f"val/{metric}" for metric in self.validation_metrics),
        )
        results = [*(loss / num_images for loss in losses), *means(measured, counts)]
        use = codebook_use(self._sum_over_ranks(self._token_counts))
        self.log_dict(
            {
                **dict(zip(names, results, strict=True)),
                "val/codebook/used": use.used,
                "val/codebook/dead": use.dead,
                "val/codebook/perplexity": use.perplexity,
                "val/codebook/entropy": use.entropy_bits,
            },
            logger=False,  # callbacks/metrics_log.py writes them, under this run's own clock
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write weights under the original's names, and no loop state: the clock is one number."""
        weights = {name: weight.contiguous() for name, weight in checkpoint["state_dict"].items()}
        checkpoint["state_dict"] = to_original(weights)
        checkpoint["warm_step"] = self.warm_step
        del checkpoint["loops"]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read weights under the original's names, and set the trainer's clock if there is one."""
        checkpoint["state_dict"] = weights_under_our_names(
            checkpoint["state_dict"], Path("the checkpoint")
        )
        self.warm_step = checkpoint["warm_step"]
        if self._trainer is not None:
            set_clock(self._trainer, checkpoint["global_step"])

    def _sum_over_ranks(self, values: Tensor) -> Tensor:
        return cast(Tensor, self.trainer.strategy.reduce(values, reduce_op="sum"))

    def _mean_over_ranks(self, values: Tensor) -> Tensor:
        return cast(Tensor, self.trainer.strategy.reduce(values, reduce_op="mean"))
