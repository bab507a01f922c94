"""How tokens were made, as stored in every token file."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from vqgan_train.images.pixels import PIXEL_RANGES
from vqgan_train.system.errors import UserError

METADATA_KEY = "vqgan_train"
"""Key of the metadata in parquet and JSON files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenMetadata:
    """How the tokens of a file were made: tokenizer, pixel range and preparation of images."""

    pixel_range: str
    """Range of the model's input: a key of PIXEL_RANGES."""

    checkpoint: str
    """Name of the checkpoint file."""

    checkpoint_sha256: str
    weights_sha256: str
    """Hash of the tokenizer's weights; the same for every file format of the checkpoint."""

    codebook_size: int
    downsampling: int
    """f: width and height of a token in pixels."""

    image_size: list[int]
    """Height and width of the encoded images in pixels."""

    grid: list[int]
    """Rows and columns of an image's tokens, which are stored row by row."""

    resize: list[int]
    """Height and width in pixels that the scaled image just covered before it was cropped."""

    interpolation: str
    """How images were scaled: a key of INTERPOLATIONS."""

    crop: str
    precision: str
    version: str
    """Version of vqgan_train."""

    def to_json(self) -> str:
        """Convert to JSON with sorted keys."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_plain(cls, plain: Any, path: Path) -> Self:
        """Check the parsed JSON of a token file, and convert it.

        Raises:
            UserError: a field is missing, unknown or invalid.
        """
        try:
            metadata = cls(**plain)
        except TypeError:
            differing = {*plain} ^ {*cls.__slots__} if isinstance(plain, dict) else {"all"}
            raise UserError(
                f"{path} says how its tokens were made, but in other fields than this version of "
                f"vqgan_train (different: {', '.join(sorted(differing))}). Decode it with the "
                "version that wrote it, or encode its images again."
            ) from None
        problem = metadata.first_problem()
        if problem:
            raise UserError(
                f"The metadata of {path} are invalid: {problem}. The file is damaged, or from "
                "another program; encode its images again, or leave it out."
            )
        return metadata

    def first_problem(self) -> str:
        """Describe the first invalid field; return an empty text if all are valid."""
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
