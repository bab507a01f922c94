"""Settings of `python -m vqgan_train.encode`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

from vqgan_train.config.checks import as_list, as_size, require, require_at_least
from vqgan_train.config.sources import SourceConfig
from vqgan_train.config.trainer import Accelerator


class TokenFormat(Enum):
    """What token files are; docs/tokens.md says what is in a file of each."""

    parquet = "parquet"
    npy = "npy"
    webdataset = "webdataset"


class PixelRange(Enum):
    """What the model is given for black and white: [-1, 1], or [0, 1]."""

    signed = "signed"
    unit = "unit"


class Interpolation(Enum):
    """How images are scaled: as in training, or with antialiasing, as DALL-E mini's were."""

    bilinear = "bilinear"
    lanczos = "lanczos"


class TokenPrecision(Enum):
    """Arithmetic of the networks; codes are compared in float32 in any case."""

    fp32 = "fp32"
    tf32 = "tf32"
    bf16 = "bf16"
    fp16 = "fp16"


@dataclass(kw_only=True, slots=True)
class EncodeConfig(SourceConfig):
    """Images from one kind of source, and the files of tokens that they become."""

    EXPLAINED: ClassVar[Mapping[str, str]] = {
        "pixel_range": "signed gives the model pixels in [-1, 1], as it was trained. unit gives "
        "it [0, 1], as DALL-E mini's tokens were made. Tokens of the two do not mix: take the one "
        "that whatever reads them was made for."
    }
    """What to say where a setting was not given."""

    checkpoint: str
    """The tokenizer: a file that export reads, or its address; see model.init_from."""

    output: str
    """Folder for the files; new, empty, or that of the same command before, which then goes on."""

    format: TokenFormat

    pixel_range: PixelRange

    shards: Any
    """Path, glob or brace pattern of tar files, an address (https://, s3://, ...) or pipe:COMMAND
    with braces, or a list of those."""

    folder: str | None
    """Folder of image files, of any depth; a caption is in a text file beside, a.txt of a.jpg."""

    tables: Any
    """Parquet files with a column of paths, relative to the table: path, pattern or list."""

    path_column: str
    """Column of the tables that names the image."""

    caption_column: str | None
    """Column that holds the caption. null: text files beside the images."""

    samples_per_file: int
    """Samples that make a file, at most. No file holds samples of two shards."""

    image_size: Any
    """What is cut out of the centre and encoded, in pixels: the side of a square, or [height,
    width]; multiples of the model's f."""

    resize: Any
    """What the image is scaled to before, in pixels: it just covers a square of this side, so that
    its shorter side is that long, or this [height, width]. null: as image_size."""

    interpolation: Interpolation

    batch_size: int
    """Images at once."""

    num_workers: int
    """Processes that read and decode images. 0: the one that encodes."""

    accelerator: Accelerator

    precision: TokenPrecision

    def __post_init__(self) -> None:
        self.shards = None if self.shards is None else as_list(self.shards)
        self.tables = None if self.tables is None else as_list(self.tables)
        sources = {"shards": self.shards, "folder": self.folder, "tables": self.tables}
        given = [name for name, value in sources.items() if value is not None]
        require(
            len(given) == 1,
            f"{' and '.join(given) or 'Nothing'} is given to encode; give one of shards=..., "
            "folder=... and tables=... .",
        )
        require(self.checkpoint != "", "checkpoint is empty; give the path of a file.")
        require(self.output != "", "output is empty; give a folder.")
        require_at_least(
            1,
            samples_per_file=self.samples_per_file,
            batch_size=self.batch_size,
        )
        require_at_least(0, num_workers=self.num_workers)
        self.check_source()
        self._check_sizes()

    def _check_sizes(self) -> None:
        given = self.resize
        self.image_size = as_size("image_size", self.image_size)
        self.resize = self.image_size if given is None else as_size("resize", given)
        require(
            all(whole >= part for whole, part in zip(self.resize, self.image_size, strict=True)),
            f"resize is {given}, smaller than image_size="
            f"{' x '.join(map(str, self.image_size))}: there would be nothing to crop from. Raise "
            "resize.",
        )


@dataclass(kw_only=True, slots=True)
class DecodeConfig:
    """Files of tokens, and the pictures that they become."""

    checkpoint: str
    """The tokenizer that made the tokens, in any format; a path or an address."""

    tokens: Any
    """A folder of token files, or files by path, glob or brace pattern, or a list of those."""

    output: str
    """Folder for the pictures; new, empty, or that of the same command before."""

    allow_other_checkpoint: bool
    """Decode even if the tokens were made by other weights."""

    pixel_range: PixelRange | None
    """Of tokens whose files do not say it, such as DALL-E mini's: signed, [-1, 1], or unit, [0, 1].
    null: the files say it."""

    max_images: int | None
    """Pictures to make. null: all."""

    batch_size: int
    """Images at once."""

    accelerator: Accelerator

    precision: TokenPrecision

    def __post_init__(self) -> None:
        self.tokens = as_list(self.tokens)
        require(len(self.tokens) > 0, "tokens is an empty list; give a folder, or files.")
        require(self.checkpoint != "", "checkpoint is empty; give the path of a file.")
        require(self.output != "", "output is empty; give a folder.")
        require_at_least(1, batch_size=self.batch_size, max_images=self.max_images)
