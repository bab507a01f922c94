"""Files of tokens back into pictures."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from vqgan_train.cache import write_whole
from vqgan_train.data.shards import expand_shards
from vqgan_train.tokenizer import Tokenizer
from vqgan_train.tokens.errors import TokenError
from vqgan_train.tokens.formats import FORMATS, Reading, Row, open_tokens
from vqgan_train.tokens.metadata import TokenMetadata


def find_token_files(patterns: Sequence[str]) -> list[Path]:
    """List files of tokens; of a folder those with the ending of a format, sorted.

    Raises:
        TokenError: a folder has none, or of several formats.
        ShardError: a file is not there.
    """
    endings = [token_format.ending for token_format in FORMATS.values()]
    files: list[Path] = []
    for pattern in patterns:
        folder = Path(pattern).expanduser()
        if not folder.is_dir():
            files += expand_shards([pattern], noun="token files", ending="")
            continue
        found = sorted(file for file in folder.iterdir() if file.suffix in endings)
        if len({file.suffix for file in found}) != 1:
            kinds = "several formats" if found else "none"
            raise TokenError(
                f"tokens={folder} should hold token files of one format (names that end with "
                f"{', '.join(endings)}), but holds {kinds}. Name the files."
            )
        files += found
    return files


def require_same_tokenizer(
    metadata: TokenMetadata, tokenizer: Tokenizer, path: Path, *, allow_other: bool
) -> None:
    """Refuse tokens that another tokenizer made.

    Raises:
        TokenError: another one did and that was not allowed, or there are not enough codes.
    """
    theirs = (metadata.codebook_size, metadata.downsampling)
    ours = (tokenizer.codebook_size, tokenizer.model.downsampling)
    if metadata.weights_sha256 == tokenizer.weights_sha256 or (allow_other and theirs == ours):
        return
    said = (
        f"The tokens of {path} were made by {metadata.checkpoint} (sha256 of the weights "
        f"{metadata.weights_sha256[:12]}..., {theirs[0]:,} codes, f = {theirs[1]}), not by "
        f"{tokenizer.checkpoint} ({tokenizer.weights_sha256[:12]}..., {ours[0]:,} codes, "
        f"f = {ours[1]})."
    )
    advice = (
        "Give that checkpoint, in any format. To see what this one makes of them: "
        "allow_other_checkpoint=true."
        if theirs == ours
        else "Give that checkpoint: this one cannot decode them."
    )
    raise TokenError(f"{said} {advice}")


def open_all(
    files: Sequence[Path], tokenizer: Tokenizer, *, allow_other: bool
) -> list[tuple[Path, Reading]]:
    """Open token files, all before the first picture is made.

    Raises:
        TokenError: a file is none, or was made by another tokenizer.
    """
    opened = [(file, open_tokens(file)) for file in files]
    for file, (metadata, _) in opened:
        require_same_tokenizer(metadata, tokenizer, file, allow_other=allow_other)
    return opened


def decode_files(
    opened: Sequence[tuple[Path, Reading]],
    tokenizer: Tokenizer,
    folder: Path,
    *,
    batch_size: int,
    bar: "tqdm[Any]",
) -> None:
    """Write each image as `<folder>/<token file's name>/<row>_<key>.png`.

    Args:
        opened: files of tokens; `bar.total` ends it, if it is set.
        tokenizer: the one that made them.
        folder: of the pictures.
        batch_size: images at once.
        bar: moved by each picture.

    Raises:
        TokenError: a row has not the tokens that its file speaks of.
        OSError: a picture cannot be written.
    """
    for file, (metadata, rows) in opened:
        numbered = enumerate(rows)
        while batch := list(islice(numbered, _batch(batch_size, bar))):
            pictures = _decode([row for _, row in batch], metadata, tokenizer, file)
            for (number, row), picture in zip(batch, pictures, strict=True):
                name = picture_name(number, row.labels.key)
                with write_whole(folder / file.stem / name) as partial:
                    picture.save(partial, format="PNG")
            bar.update(len(batch))


def picture_name(number: int, key: str) -> str:
    """What the picture of a row is called; two rows of a file may have the same key."""
    return f"{number:06d}_{key.replace('/', '_')}.png"


def _batch(batch_size: int, bar: "tqdm[Any]") -> int:
    return batch_size if bar.total is None else int(min(batch_size, bar.total - bar.n))


def _decode(
    rows: Sequence[Row], metadata: TokenMetadata, tokenizer: Tokenizer, file: Path
) -> Iterator[Image.Image]:
    height, width = metadata.grid
    for row in rows:
        if row.tokens.shape != (height * width,) or row.tokens.max() >= tokenizer.codebook_size:
            raise TokenError(
                f"{row.labels.key} in {file} has {row.tokens.size} tokens up to "
                f"{row.tokens.max()}, but the file speaks of {height} x {width} below "
                f"{tokenizer.codebook_size}. It is damaged; encode its images again."
            )
    tokens = torch.from_numpy(np.stack([row.tokens for row in rows]))
    pixels = tokenizer.decode(tokens, (height, width), metadata.pixel_range)
    yield from (Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels)
