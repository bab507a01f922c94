"""Settings of `python -m vqgan_train.decode`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vqgan_train.config.checks import as_list, require, require_at_least
from vqgan_train.config.encode import PixelRange, TokenPrecision
from vqgan_train.config.trainer import Accelerator


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
