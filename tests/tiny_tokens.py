"""A tiny tokenizer in a file, shards for it, and the encode command run in this process."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from factories import image_samples, write_shard
from numpy.typing import NDArray
from tiny_exports import tiny_networks, write_checkpoint

from vqgan_train import decode, encode
from vqgan_train.tokens.formats import TokenRow, open_any
from vqgan_train.tokens.metadata import TokenMetadata

SMALL = ("resize=16", "image_size=16", "batch_size=4", "num_workers=0", "accelerator=cpu")
"""8 x 8 tokens an image."""

CLEAR_SEEDS = (0, 1, 2, 103, 4, 205, 106, 207, 108, 9, 10, 211, 112, 113, 114, 15, 16)
"""Seeds whose images have clear tokens, by `tiny_checkpoint` with 64 codes and with 32.

So it is at the image sizes of test_encode.py and test_evaluate.py, which ask for it.
"""


def tiny_checkpoint(folder: Path, **overrides: Any) -> Path:
    return write_checkpoint(folder / "tiny.ckpt", tiny_networks(discriminator=False, **overrides))


def tiny_samples() -> list[dict[str, Any]]:
    """17 samples whose tokens do not depend on the processor; see `clear_tokens`."""
    return image_samples(len(CLEAR_SEEDS), seeds=CLEAR_SEEDS)


def tiny_shards(folder: Path) -> list[Path]:
    """Three shards of 5, 9 and 3 samples: those of `tiny_samples`."""
    sizes, shards, first = (5, 9, 3), [], 0
    for number, size in enumerate(sizes):
        samples = tiny_samples()[first : first + size]
        shards.append(write_shard(folder / f"{number:05d}.tar", samples))
        first += size
    return shards


def run(command: ModuleType, *arguments: str) -> int:
    """Run a command in this process; its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [command.__name__, *arguments])
        try:
            command.main()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0


def run_encode(checkpoint: Path, output: Path, *arguments: str) -> int:
    """Encode; parquet in the signed range, unless `arguments` say otherwise."""
    given = {argument.split("=")[0] for argument in arguments}
    own = [f"checkpoint={checkpoint}", f"output={output}", "format=parquet", "pixel_range=signed"]
    defaults = [default for default in [*own, *SMALL] if default.split("=")[0] not in given]
    return run(encode, *defaults, *arguments)


def run_decode(checkpoint: Path, tokens: Path | str, output: Path, *arguments: str) -> int:
    own = (f"checkpoint={checkpoint}", f"tokens={tokens}", f"output={output}", "accelerator=cpu")
    return run(decode, *own, *arguments)


def token_files(folder: Path) -> list[Path]:
    """Files of tokens, without the ledger and what lies beside arrays."""
    return sorted(f for f in folder.iterdir() if f.suffix in (".parquet", ".npy", ".tar"))


def rows_of(folder: Path) -> list[TokenRow]:
    return [row for file in token_files(folder) for row in open_any(file)[1]()]


def metadata_of(file: Path) -> TokenMetadata:
    """How a file's tokens were made."""
    metadata, _ = open_any(file)
    assert metadata is not None
    return metadata


def tokens_of(folder: Path) -> NDArray[np.int32]:
    return np.stack([row.tokens for row in rows_of(folder)])


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder, the ledger included."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}
