"""How tokens were made: what a file of them says of itself."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from vqgan_train.images.pixels import PIXEL_RANGES
from vqgan_train.system.errors import TokenError

METADATA_KEY = "vqgan_train"
"""Where files keep it, as JSON."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenMetadata:
    """Everything that two files have to share for their tokens to mean the same."""

    pixel_range: str
    """What the model was given: a key of PIXEL_RANGES."""

    checkpoint: str
    """The file's name."""

    checkpoint_sha256: str
    weights_sha256: str
    """Of the tokenizer's weights: the same in every format that they are exported to."""

    codebook_size: int
    downsampling: int
    """f: pixels a token is wide and high."""

    image_size: list[int]
    """Height and width of what was encoded, in pixels."""

    grid: list[int]
    """Rows and columns of tokens; they are stored row by row."""

    resize: list[int]
    """Height and width that the scaled image just covered before it was cropped, in pixels."""

    interpolation: str
    """Of that: a key of INTERPOLATIONS."""

    crop: str
    precision: str
    version: str
    """Of vqgan_train."""

    def to_json(self) -> str:
        """The same text for the same values."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_plain(cls, plain: Any, path: Path) -> Self:
        """Read what `to_json` wrote, parsed.

        Raises:
            TokenError: it is something else.
        """
        try:
            said = cls(**plain)
        except TypeError as error:
            raise TokenError(
                f"{path} says how its tokens were made, but not as python -m vqgan_train.encode of "
                f"this version does ({error})."
            ) from None
        wrong = said.what_is_wrong()
        if wrong:
            raise TokenError(f"{path} says of its tokens what cannot be: {wrong}.")
        return said

    def what_is_wrong(self) -> str:
        """What of it no tokens can have; empty if all could be."""
        for name in ("image_size", "grid", "resize"):
            sides = getattr(self, name)
            if not isinstance(sides, list) or len(sides) != 2 or not all(map(_is_count, sides)):
                return f"{name} is {sides}"
        for name in ("codebook_size", "downsampling"):
            if not _is_count(getattr(self, name)):
                return f"{name} is {getattr(self, name)}"
        if self.pixel_range not in PIXEL_RANGES:
            return f"pixel_range is {self.pixel_range}"
        if [side * self.downsampling for side in self.grid] != self.image_size:
            return f"grid is {self.grid} for an image_size of {self.image_size}"
        return ""


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value >= 1
