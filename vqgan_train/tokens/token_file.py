"""Open token files for decoding, and check that each row holds the tokens of an image."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from vqgan_train.system.errors import UserError
from vqgan_train.system.files import file_signature, fingerprint
from vqgan_train.tokens.formats import TokenRow, open_any
from vqgan_train.tokens.metadata import TokenMetadata


class TokenFile(NamedTuple):
    """Metadata, grid and row reader of a token file."""

    path: Path
    metadata: TokenMetadata | None
    """None if the file does not say how its tokens were made."""

    pixel_range: str
    """Range of the decoded pixels: a key of PIXEL_RANGES."""

    grid: tuple[int, int]
    """Rows and columns of an image's tokens."""

    rows: Callable[[], Iterator[TokenRow]]
    """Reads the file from its start, a few rows at a time."""

    def validate_row(self, row: TokenRow, number: int, codebook_size: int) -> None:
        """Check that a row holds the tokens of one image.

        Args:
            row: the row.
            number: number of the row in the file, from 0 on, for the message.
            codebook_size: number of codes of the tokenizer.

        Raises:
            UserError: the row does not have as many tokens as the grid, or a token is not a code.
        """
        tokens, (height, width) = row.tokens, self.grid
        if tokens.shape != (height * width,):
            problem = f"has {tokens.size} tokens, not {height} x {width}"
        elif tokens.min() < 0 or tokens.max() >= codebook_size:
            problem = (
                f"has tokens from {tokens.min()} to {tokens.max()}, but codes are from 0 to "
                f"{codebook_size - 1}"
            )
        else:
            return
        raise UserError(
            f"Row {number} of {self.path} ({row.labels.key or 'without a key'}) {problem}. The "
            "file is damaged, or from another tokenizer; encode its images again, or leave it out."
        )


def open_token_file(path: Path, pixel_range: str | None) -> TokenFile:
    """Open a token file.

    Args:
        path: the file.
        pixel_range: range of the pixels for a file that does not say it; None if the file does.

    Raises:
        UserError: the file cannot be read or holds no tokens; its range differs from `pixel_range`;
            or neither names a range.
    """
    metadata, rows = open_any(path)
    if metadata is None:
        if pixel_range is None:
            raise UserError(
                f"{path} does not say how its tokens were made, so python -m vqgan_train.encode "
                "did not write it. If you know the pixel range in which they were made, set "
                "pixel_range=unit for [0, 1], as in DALL-E mini, or signed for [-1, 1]."
            )
        return TokenFile(path, None, pixel_range, _square_grid(path, rows), rows)
    if pixel_range not in (None, metadata.pixel_range):
        raise UserError(
            f"pixel_range={pixel_range}, but {path} says that its tokens were made in the range "
            f"{metadata.pixel_range}. Leave pixel_range out."
        )
    height, width = metadata.grid
    return TokenFile(path, metadata, metadata.pixel_range, (height, width), rows)


def files_fingerprint(files: Sequence[TokenFile]) -> str:
    """Return a text that changes when a file is added, removed or modified."""
    return f"{len(files)} files, {fingerprint(file_signature(file.path) for file in files)}"


def _square_grid(path: Path, rows: Callable[[], Iterator[TokenRow]]) -> tuple[int, int]:
    """Return a square grid of as many tokens as the first row has; for files without metadata."""
    first = next(rows(), None)
    count = 0 if first is None else first.tokens.size
    side = math.isqrt(count)
    if side == 0 or side * side != count:
        raise UserError(
            f"{path} does not say how many rows and columns of tokens an image has, and its first "
            f"row has {count} tokens, which do not make a square. Encode its images again, or "
            "leave it out."
        )
    return side, side
