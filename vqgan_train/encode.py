"""`python -m vqgan_train.encode`: images become tokens."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqgan_train.command import run_command
from vqgan_train.config import EncodeConfig

if TYPE_CHECKING:
    from tqdm import tqdm

    from vqgan_train.encoding import Outcome, Output
    from vqgan_train.tokens.share import Share
    from vqgan_train.tokens.sources import Damage, Source

SHOWN_AT_MOST = 5


def main() -> None:
    """Run the command."""
    run_command("encode", EncodeConfig, encode)


def encode(config: EncodeConfig) -> None:
    """Find the samples, encode those of this process that are not done, say what became of them."""
    from vqgan_train.checkpoint_source import fetch_checkpoint
    from vqgan_train.encoding import Output, begin, encode_parts, left_to_do, outcome
    from vqgan_train.tokenizer import load_tokenizer
    from vqgan_train.tokens.bad_images import require_few_dead
    from vqgan_train.tokens.devices import choose_device
    from vqgan_train.tokens.formats import FORMATS, require_installed
    from vqgan_train.tokens.share import share_of_process

    share = share_of_process(os.environ)
    device = choose_device(config.accelerator.value, share.local_rank)
    token_format = FORMATS[config.format.value]
    require_installed(token_format)
    checkpoint = fetch_checkpoint(config.checkpoint, "checkpoint")
    tokenizer = load_tokenizer(checkpoint, device, config.precision.value)
    metadata = tokenizer.describe(
        pixel_range=config.pixel_range.value,
        resize=config.resize,
        image_size=config.image_size,
        interpolation=config.interpolation.value,
    )
    source = find_samples(config)
    require_few_dead(source.damage, config.max_bad_fraction)
    output = Output(Path(config.output).expanduser(), token_format, metadata)
    begin(source, output, config.batch_size, device.type)
    parts = left_to_do(source, output, share)
    with progress(source, parts, share) as bar:
        encode_parts(
            source,
            output,
            tokenizer,
            parts=parts,
            batch_size=config.batch_size,
            num_workers=config.num_workers,
            max_bad_fraction=config.max_bad_fraction,
            bar=bar,
        )
    sys.stdout.write(report(outcome(source, output), output, source.damage))


def find_samples(config: EncodeConfig) -> Source:
    """List what is to be encoded.

    Raises:
        ShardError, PreparationError, TokenError: it is not there, or cannot be read.
    """
    from vqgan_train.data import expand_shards, expand_sources
    from vqgan_train.tokens.places import store_settings
    from vqgan_train.tokens.sources import from_folder, from_shards, from_tables

    most = config.samples_per_file
    if config.shards is not None:
        shards = [shard for source in expand_sources(config.shards) for shard in source]
        store = store_settings(
            config.cache_dir, config.cache_gb, config.stall_seconds, config.attempts
        )
        return from_shards(shards, most, store)
    if config.folder is not None:
        return from_folder(Path(config.folder).expanduser(), most)
    tables = expand_shards(config.tables, noun="tables", ending=".parquet")
    return from_tables(tables, config.path_column, config.caption_column, most)


def progress(source: Source, parts: list[str], share: Share) -> tqdm[Any]:
    """A bar over the samples that this process has still to encode."""
    from tqdm import tqdm

    sizes = dict(zip(source.part_names(), source.sizes, strict=True))
    name = "encoding" if share.ranks == 1 else f"encoding, process {share.rank} of {share.ranks}"
    return tqdm(total=sum(sizes[part] for part in parts), desc=name, unit="image")


def report(found: Outcome, output: Output, damage: Damage) -> str:
    """Say what lies in the folder, whichever process put it there.

    Raises:
        TokenError: no image could be read.
    """
    from vqgan_train.tokens.errors import TokenError
    from vqgan_train.tokens.job import LEDGER

    done, metadata = found.done, output.metadata
    if found.num_done == found.num_parts and not done.encoded:
        raise TokenError(
            f"None of the {done.seen} images could be read, for example {done.bad[0]}."
        )
    rows, columns = metadata.grid
    ending = output.token_format.ending
    lines = [
        f"encoded  {done.encoded:,} of {done.seen:,} images, {rows} x {columns} tokens each, "
        f"pixel range {metadata.pixel_range}",
        f"files    {found.num_done} of {found.num_parts}: '{output.folder}/*{ending}'",
    ]
    if found.num_done < found.num_parts:
        lines.append("         the others are those of other processes, or of the next start")
    if done.without_caption:
        lines.append(f"captions {done.without_caption:,} images have none")
    if done.bad:
        more = len(done.bad) - SHOWN_AT_MOST
        lines.append(f"bad      {len(done.bad):,} images could not be read:")
        lines += [f"         {name}" for name in done.bad[:SHOWN_AT_MOST]]
        lines += [f"         and {more:,} more, by name in {output.folder}/{LEDGER}"] * (more > 0)
    lines += named("dead", damage.dead, "shards hold nothing that could be read")
    lines += named("damaged", damage.partly, "shards have lost samples")
    return "\n".join([*lines, ""])


def named(word: str, problems: list[str], what: str) -> list[str]:
    """Say how many there are, and name the first ones."""
    if not problems:
        return []
    more = len(problems) - SHOWN_AT_MOST
    return [
        f"{word:<8} {len(problems):,} {what}:",
        *[f"         {problem}" for problem in problems[:SHOWN_AT_MOST]],
        *[f"         and {more:,} more, named at the start"] * (more > 0),
    ]


if __name__ == "__main__":
    main()
