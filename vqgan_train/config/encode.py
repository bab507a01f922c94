"""Settings of `python -m vqgan_train.encode`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

from vqgan_train.config.checks import as_list, require, require_at_least
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


class TokenPrecision(Enum):
    """Arithmetic of the networks; codes are compared in float32 in any case."""

    fp32 = "fp32"
    tf32 = "tf32"
    bf16 = "bf16"
    fp16 = "fp16"


@dataclass(kw_only=True, slots=True)
class EncodeConfig:
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
    """Path, glob or brace pattern of tar files, or a list of those."""

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

    resize: int
    """Length of the shorter side before cropping, in pixels."""

    image_size: int
    """Side of the square in the centre that is encoded, in pixels; a multiple of the model's f."""

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
            image_size=self.image_size,
            batch_size=self.batch_size,
        )
        require_at_least(0, num_workers=self.num_workers)
        require(
            self.resize >= self.image_size,
            f"resize is {self.resize}, smaller than image_size={self.image_size}: there would be "
            "nothing to crop from. Raise resize.",
        )
