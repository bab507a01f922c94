"""A file of tokens that is decoded: what its numbers mean, and whether they can mean it."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from vqgan_train.system.errors import TokenError
from vqgan_train.system.jobs import fingerprint, stamp
from vqgan_train.tokens.batches import Row
from vqgan_train.tokens.formats import open_any
from vqgan_train.tokens.metadata import TokenMetadata


class TokenFile(NamedTuple):
    """A file that was opened."""

    path: Path
    metadata: TokenMetadata | None
    """None: it does not say how it was made."""

    pixel_range: str
    """What decoded pixels mean: a key of PIXEL_RANGES."""

    grid: tuple[int, int]
    """Rows and columns of tokens."""

    rows: Callable[[], Iterator[Row]]
    """Reads it, a few rows at a time."""

    def require_whole(self, row: Row, number: int, codebook_size: int) -> None:
        """Refuse a row that is no image's.

        Raises:
            TokenError: it has not as many tokens as the grid, or one that is no code.
        """
        tokens, (height, width) = row.tokens, self.grid
        if tokens.shape != (height * width,):
            found = f"has {tokens.size} tokens, not {height} x {width}"
        elif tokens.min() < 0 or tokens.max() >= codebook_size:
            found = f"has tokens from {tokens.min()} to {tokens.max()}, not within 0 and " + str(
                codebook_size - 1
            )
        else:
            return
        raise TokenError(
            f"Row {number} of {self.path} ({row.labels.key or 'without a key'}) {found}. The file "
            "is damaged, or of another tokenizer; encode its images again, or leave it out."
        )


def open_token_file(path: Path, pixel_range: str | None) -> TokenFile:
    """Open a file of tokens.

    Args:
        path: the file.
        pixel_range: of files that do not say it themselves; None: there are no such.

    Raises:
        TokenError: it is none, it says another range, or it says none and no range is given.
    """
    metadata, rows = open_any(path)
    if metadata is None:
        if pixel_range is None:
            raise TokenError(
                f"{path} does not say how its tokens were made, so they are not those of python "
                "-m vqgan_train.encode. If you know with which pixels they were made, say so: "
                "pixel_range=unit for [0, 1], as DALL-E mini's were, or pixel_range=signed."
            )
        return TokenFile(path, None, pixel_range, _square(path, rows), rows)
    if pixel_range not in (None, metadata.pixel_range):
        raise TokenError(
            f"pixel_range={pixel_range}, but {path} says that its tokens were made in the range "
            f"{metadata.pixel_range}. Leave pixel_range out."
        )
    height, width = metadata.grid
    return TokenFile(path, metadata, metadata.pixel_range, (height, width), rows)


def which_files(files: Sequence[TokenFile]) -> str:
    """Tell some files from others: a text that changes when they do."""
    return f"{len(files)} files, {fingerprint(stamp(file.path) for file in files)}"


def _square(path: Path, rows: Callable[[], Iterator[Row]]) -> tuple[int, int]:
    """The grid of tokens that do not say what it is."""
    first = next(rows(), None)
    count = 0 if first is None else first.tokens.size
    side = math.isqrt(count)
    if side == 0 or side * side != count:
        raise TokenError(
            f"Row 0 of {path} has {count} tokens, which are no square, and the file does not say "
            "how its tokens were made."
        )
    return side, side
