"""How tokens were made: what a file of them says of itself."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from vqgan_train.tokens.errors import TokenError

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
            TokenError: it is not there, or something else.
        """
        try:
            return cls(**plain)
        except TypeError as error:
            raise TokenError(
                f"{path} does not say how its tokens were made (pixel range, checkpoint), so they "
                f"are not those of python -m vqgan_train.encode, or of another version ({error})."
            ) from None
