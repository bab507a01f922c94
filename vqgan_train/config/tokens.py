"""Settings of `python -m vqgan_train.encode` and `python -m vqgan_train.decode`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

from vqgan_train.config.checks import as_list, as_size, require, require_at_least
from vqgan_train.config.sources import SourceConfig
from vqgan_train.config.trainer import Accelerator


class TokenFormat(Enum):
    """File format of tokens; docs/tokens.md describes each."""

    parquet = "parquet"
    npy = "npy"
    webdataset = "webdataset"


class PixelRange(Enum):
    """Range of the pixels that the model gets: signed is [-1, 1], unit is [0, 1]."""

    signed = "signed"
    unit = "unit"


class Interpolation(Enum):
    """Filter for resizing images: bilinear as in training, or lanczos as DALL-E mini used."""

    bilinear = "bilinear"
    lanczos = "lanczos"


class TokenPrecision(Enum):
    """Precision of the networks; the search for the nearest code always uses float32."""

    fp32 = "fp32"
    tf32 = "tf32"
    bf16 = "bf16"
    fp16 = "fp16"


@dataclass(kw_only=True, slots=True)
class EncodeConfig(SourceConfig):
    """Settings for encoding images into token files."""

    EXPLAINED: ClassVar[Mapping[str, str]] = {
        "pixel_range": "signed gives the model pixels in [-1, 1], as in training. unit gives it "
        "pixels in [0, 1], as DALL-E mini did. The two make different tokens: choose the range "
        "that the program which reads the tokens expects."
    }
    """What the message about a missing setting adds, by the setting's name."""

    checkpoint: str
    """Checkpoint of the tokenizer: a file that export reads, or an address (as model.init_from)."""

    output: str
    """Output folder: new, empty, or of an earlier run of this command, which is then resumed."""

    format: TokenFormat

    pixel_range: PixelRange

    shards: Any
    """Tar files: path, glob or brace pattern; address (https://, s3://, ...) or pipe:COMMAND, both
    with or without braces; or a list of these."""

    folder: str | None
    """Folder with image files, searched recursively. The caption of a.jpg is in a.txt beside it."""

    tables: Any
    """Parquet files with a column of image paths, relative to the file: path, pattern or list."""

    path_column: str
    """Column of the image paths."""

    caption_column: str | None
    """Column of the captions. null: captions are in text files beside the images."""

    samples_per_file: int
    """Samples per token file. The last file of each shard may have fewer."""

    image_size: Any
    """Size of the centre crop that is encoded, in pixels: the side of a square, or [height, width].
    Each must be a multiple of the model's downsampling factor f."""

    resize: Any
    """Size to which images are scaled before the crop, in pixels: a number is the length of the
    shorter side; for [height, width], the image is scaled to just cover that area. null: as
    image_size."""

    interpolation: Interpolation

    batch_size: int
    """Images encoded at once."""

    num_workers: int
    """Processes that read and decode images. 0: the main process does."""

    accelerator: Accelerator

    precision: TokenPrecision

    def __post_init__(self) -> None:
        self.shards = None if self.shards is None else as_list(self.shards)
        self.tables = None if self.tables is None else as_list(self.tables)
        sources = {"shards": self.shards, "folder": self.folder, "tables": self.tables}
        names = [name for name, value in sources.items() if value is not None]
        require(
            len(names) == 1,
            f"Give exactly one of shards=..., folder=... and tables=...; given: "
            f"{' and '.join(names) or 'none'}.",
        )
        require(self.checkpoint != "", "checkpoint is empty; give the path of a file.")
        require(self.output != "", "output is empty; give a folder.")
        require_at_least(1, samples_per_file=self.samples_per_file, batch_size=self.batch_size)
        require_at_least(0, num_workers=self.num_workers)
        self.check_source()
        self._check_sizes()

    def _check_sizes(self) -> None:
        resize = self.resize
        self.image_size = as_size("image_size", self.image_size)
        self.resize = self.image_size if resize is None else as_size("resize", resize)
        require(
            all(scaled >= crop for scaled, crop in zip(self.resize, self.image_size, strict=True)),
            f"resize is {resize}, smaller than image_size="
            f"{' x '.join(map(str, self.image_size))}: the scaled image would be smaller than the "
            "crop. Raise resize.",
        )


@dataclass(kw_only=True, slots=True)
class DecodeConfig:
    """Settings for decoding token files into pictures."""

    checkpoint: str
    """Checkpoint of the tokenizer that made the tokens: a file that export reads, or an address."""

    tokens: Any
    """Folder of token files, or the files by path, glob or brace pattern, or a list of these."""

    output: str
    """Output folder: new, empty, or of an earlier run of this command."""

    allow_other_checkpoint: bool
    """Decode even if the tokens were made with other weights."""

    pixel_range: PixelRange | None
    """Pixel range with which the tokens were made, for files that do not state it, such as DALL-E
    mini's. null: the files state it."""

    max_images: int | None
    """Number of pictures to decode. null: all."""

    batch_size: int
    """Images decoded at once."""

    accelerator: Accelerator

    precision: TokenPrecision

    def __post_init__(self) -> None:
        self.tokens = as_list(self.tokens)
        require(len(self.tokens) > 0, "tokens is an empty list; give a folder or files.")
        require(self.checkpoint != "", "checkpoint is empty; give the path of a file.")
        require(self.output != "", "output is empty; give a folder.")
        require_at_least(1, batch_size=self.batch_size, max_images=self.max_images)
