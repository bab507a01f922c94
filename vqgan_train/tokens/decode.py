"""Files of tokens back into pictures."""

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from vqgan_train.checkpoint.fetching import fetch_checkpoint
from vqgan_train.config import DecodeConfig
from vqgan_train.shards.naming import expand_shards
from vqgan_train.system.devices import choose_device
from vqgan_train.system.errors import TokenError
from vqgan_train.system.files import write_whole
from vqgan_train.system.processes import Share, share_of_process
from vqgan_train.tokens.batches import Row
from vqgan_train.tokens.formats import FORMATS
from vqgan_train.tokens.ledger import join_job
from vqgan_train.tokens.token_file import TokenFile, open_token_file, which_files
from vqgan_train.tokens.tokenizer import Tokenizer, load_tokenizer


class Numbered(NamedTuple):
    """A row and its place in its file, from 0 on."""

    number: int
    row: Row


def find_token_files(patterns: Sequence[str]) -> list[Path]:
    """List files of tokens; of a folder those with the ending of a format, sorted.

    Raises:
        TokenError: a folder has none, or of several formats; or two files are called the same.
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
    _require_names_of_their_own(files)
    return files


def _require_names_of_their_own(files: Sequence[Path]) -> None:
    stem, count = Counter(file.stem for file in files).most_common(1)[0]
    if count > 1:
        same = [str(file) for file in files if file.stem == stem]
        raise TokenError(
            f"{count} files are called {stem}, {same[0]} and {same[1]} for two, and their pictures "
            f"would be in one folder {stem}. Decode them by commands of their own, each into an "
            "output of its own."
        )


def require_same_tokenizer(file: TokenFile, tokenizer: Tokenizer, *, allow_other: bool) -> None:
    """Refuse tokens that another tokenizer made; those that do not say which one are let through.

    Raises:
        TokenError: another one did and that was not allowed, or there are not enough codes.
    """
    metadata = file.metadata
    if metadata is None:
        return
    theirs = (metadata.codebook_size, metadata.downsampling)
    ours = (tokenizer.codebook_size, tokenizer.model.downsampling)
    if metadata.weights_sha256 == tokenizer.weights_sha256 or (allow_other and theirs == ours):
        return
    said = (
        f"The tokens of {file.path} were made by {metadata.checkpoint} (sha256 of the weights "
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


def decode_files(
    files: Sequence[TokenFile],
    tokenizer: Tokenizer,
    folder: Path,
    *,
    batch_size: int,
    max_images: int | None,
    share: Share,
    bar: "tqdm[Any]",
) -> int:
    """Write each image as `<folder>/<token file's name>/<row>_<key>.png`.

    Args:
        files: of tokens.
        tokenizer: the one that made them.
        folder: of the pictures.
        batch_size: images at once.
        max_images: pictures of all processes together; None: all.
        share: every so many-th batch is this process's.
        bar: moved by each picture, those of other processes included.

    Returns:
        How many pictures this process wrote.

    Raises:
        TokenError: a file is damaged, or a picture cannot be written.
    """
    written = 0
    for number, (file, batch) in enumerate(_batches(files, batch_size, max_images)):
        for entry in batch:
            file.require_whole(entry.row, entry.number, tokenizer.codebook_size)
        if share.has(number):
            _write_pictures(batch, file, tokenizer, folder / file.path.stem)
            written += len(batch)
        bar.update(len(batch))
    return written


def picture_name(number: int, key: str) -> str:
    """What the picture of a row is called; two rows of a file may have the same key."""
    return "_".join([f"{number:06d}", *([key.replace("/", "_")] if key else [])]) + ".png"


def _batches(
    files: Sequence[TokenFile], batch_size: int, most: int | None
) -> Iterator[tuple[TokenFile, list[Numbered]]]:
    """Rows of one file each, `most` in all."""
    left = most
    for file in files:
        rows = (Numbered(number, row) for number, row in enumerate(file.rows()))
        while batch := list(islice(rows, batch_size if left is None else min(batch_size, left))):
            yield file, batch
            left = None if left is None else left - len(batch)


def _write_pictures(
    batch: Sequence[Numbered], file: TokenFile, tokenizer: Tokenizer, folder: Path
) -> None:
    tokens = torch.from_numpy(np.stack([entry.row.tokens for entry in batch]))
    pixels = tokenizer.decode(tokens, file.grid, file.pixel_range)
    for entry, image in zip(batch, pixels, strict=True):
        path = folder / picture_name(entry.number, entry.row.labels.key)
        try:
            with write_whole(path) as partial:
                Image.fromarray(image.permute(1, 2, 0).numpy()).save(partial, format="PNG")
        except OSError as error:
            raise TokenError(f"{path} cannot be written: {error.strerror or error}.") from error


def decode(config: DecodeConfig) -> None:
    """Open the files, compare the checkpoint with theirs, write this process's pictures."""
    share = share_of_process(os.environ)
    device = choose_device(config.accelerator.value, share.local_rank)
    checkpoint = fetch_checkpoint(config.checkpoint, "checkpoint")
    folder = Path(config.output).expanduser()
    pixel_range = config.pixel_range.value if config.pixel_range else None
    files = [open_token_file(path, pixel_range) for path in find_token_files(config.tokens)]
    tokenizer = load_tokenizer(checkpoint, device, config.precision.value)
    for file in files:
        require_same_tokenizer(file, tokenizer, allow_other=config.allow_other_checkpoint)
    ranges = sorted({file.pixel_range for file in files})
    job = {
        "command": "decode",
        "weights_sha256": tokenizer.weights_sha256,
        "precision": config.precision.value,
        "pixel_range": ranges,
        "max_images": config.max_images,
        "tokens": which_files(files),
    }
    join_job(folder, job)
    with tqdm(total=config.max_images, desc="decoding", unit="image") as bar:
        written = decode_files(
            files,
            tokenizer,
            folder,
            batch_size=config.batch_size,
            max_images=config.max_images,
            share=share,
            bar=bar,
        )
    by = f" in process {share.rank} of {share.ranks}" if share.ranks > 1 else ""
    sys.stdout.write(
        f"decoded  {written:,} images{by}, pixel range {' and '.join(ranges)}\n"
        f"files    '{folder}/*/*.png'\n"
    )
