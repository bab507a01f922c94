"""Decode token files into PNG pictures."""

import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from vqgan_train.checkpoint.fetching import fetch_checkpoint
from vqgan_train.config.tokens import DecodeConfig
from vqgan_train.shards.naming import expand_shards
from vqgan_train.system.devices import choose_device
from vqgan_train.system.errors import UserError
from vqgan_train.system.files import write_atomically
from vqgan_train.system.job_file import join_job
from vqgan_train.system.launch import find_process_rank
from vqgan_train.tokens.formats import FORMATS, TokenRow
from vqgan_train.tokens.ledger import LEDGER_JOB_FILE
from vqgan_train.tokens.token_file import TokenFile, files_fingerprint, open_token_file
from vqgan_train.tokens.tokenizer import Tokenizer, load_tokenizer

MAX_KEY_BYTES = 200
"""Bytes of a key in a file's name, which holds 255 in most file systems."""


def decode(config: DecodeConfig) -> None:
    """Decode this process's share of the images into `<output>/<token file>/<row>_<key>.png`.

    Raises:
        UserError: another checkpoint made the tokens, a file is missing or damaged, `output` holds
            other files, or the values of the networks overflow.
    """
    process = find_process_rank(os.environ)
    device = choose_device(config.accelerator.value, process.local_rank)
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
        "tokens": files_fingerprint(files),
    }
    join_job(folder, job, LEDGER_JOB_FILE)
    written = 0
    with tqdm(total=config.max_images, desc="decoding", unit="image") as bar:
        batches = enumerate(_batches(files, config.batch_size, config.max_images))
        for batch_number, (file, rows) in batches:
            for number, row in rows:
                file.validate_row(row, number, tokenizer.codebook_size)
            if batch_number % process.world_size == process.rank:
                _write_pictures(rows, file, tokenizer, folder / file.path.stem)
                written += len(rows)
            bar.update(len(rows))
    by = f" in process {process.rank} of {process.world_size}" if process.world_size > 1 else ""
    sys.stdout.write(
        f"decoded  {written:,} images{by}, pixel range {' and '.join(ranges)}\n"
        f"files    '{folder}/*/*.png'\n"
    )


NumberedRow = tuple[int, TokenRow]
"""Number of a row in its file, from 0 on, and the row."""


def find_token_files(patterns: Sequence[str]) -> list[Path]:
    """List token files; a folder gives its files with a token format's suffix, sorted.

    Raises:
        UserError: a folder has no token files, or files of several formats; or two files have the
            same name.
        ShardError: as in `expand_shards`, such as a file that does not exist.
    """
    endings = [token_format.ending for token_format in FORMATS.values()]
    files: list[Path] = []
    for pattern in patterns:
        folder = Path(pattern).expanduser()
        if not folder.is_dir():
            files += expand_shards([pattern], noun="token files", ending="")
            continue
        token_files = sorted(file for file in folder.iterdir() if file.suffix in endings)
        if len({file.suffix for file in token_files}) != 1:
            formats = "several formats" if token_files else "none"
            raise UserError(
                f"tokens={folder} should hold token files of one format (names that end with "
                f"{', '.join(endings)}), but holds {formats}. Name the files themselves."
            )
        files += token_files
    _require_different_names(files)
    return files


def _require_different_names(files: Sequence[Path]) -> None:
    stem, count = Counter(file.stem for file in files).most_common(1)[0]
    if count > 1:
        same = [str(file) for file in files if file.stem == stem]
        raise UserError(
            f"{count} files are called {stem}, for example {same[0]} and {same[1]}, and their "
            f"pictures would be in one folder {stem}. Decode each with a separate command and "
            "output."
        )


def require_same_tokenizer(file: TokenFile, tokenizer: Tokenizer, *, allow_other: bool) -> None:
    """Refuse tokens of another tokenizer; files that do not name theirs are accepted.

    Raises:
        UserError: the weights differ and `allow_other` is false, or codebook size or f differ.
    """
    metadata = file.metadata
    if metadata is None:
        return
    theirs = (metadata.codebook_size, metadata.downsampling)
    ours = (tokenizer.codebook_size, tokenizer.model.downsampling)
    if metadata.weights_sha256 == tokenizer.weights_sha256 or (allow_other and theirs == ours):
        return
    advice = (
        "Use that checkpoint, in any format. To decode with this one all the same: "
        "allow_other_checkpoint=true."
        if theirs == ours
        else "Use that checkpoint: this one cannot decode them."
    )
    raise UserError(
        f"The tokens of {file.path} were made by {metadata.checkpoint} (sha256 of the weights "
        f"{metadata.weights_sha256[:12]}..., {theirs[0]:,} codes, f = {theirs[1]}), not by "
        f"{tokenizer.checkpoint} ({tokenizer.weights_sha256[:12]}..., {ours[0]:,} codes, "
        f"f = {ours[1]}). {advice}"
    )


def picture_name(number: int, key: str) -> str:
    """Return the file name of a row's picture: number and key, because keys may be repeated.

    A key is cut after MAX_KEY_BYTES; `/` and zero bytes, which no file name can have, become `_`.
    """
    encoded = re.sub("[/\0]", "_", key).encode("utf-8", "replace")
    key = encoded[:MAX_KEY_BYTES].decode("utf-8", "ignore")
    return "_".join([f"{number:06d}", *([key] if key else [])]) + ".png"


def _batches(
    files: Sequence[TokenFile], batch_size: int, max_rows: int | None
) -> Iterator[tuple[TokenFile, list[NumberedRow]]]:
    """Read batches, each of rows of one file, up to `max_rows` rows in all; None: all rows."""
    left = max_rows
    for file in files:
        rows = enumerate(file.rows())
        while batch := list(islice(rows, batch_size if left is None else min(batch_size, left))):
            yield file, batch
            left = None if left is None else left - len(batch)


def _write_pictures(
    batch: Sequence[NumberedRow], file: TokenFile, tokenizer: Tokenizer, folder: Path
) -> None:
    tokens = torch.from_numpy(np.stack([row.tokens for _, row in batch]))
    pixels = tokenizer.decode(tokens, file.grid, file.pixel_range)
    for (number, row), image in zip(batch, pixels, strict=True):
        path = folder / picture_name(number, row.labels.key)
        with write_atomically(path) as partial:
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(partial, format="PNG")
