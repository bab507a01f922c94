"""Images into files of tokens: one file a part, each sample once, whatever happens in between."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from vqgan_train.checkpoint.fetching import fetch_checkpoint
from vqgan_train.config import EncodeConfig
from vqgan_train.images.bad_images import BadImages, PartReport, require_few_dead
from vqgan_train.images.locations import store_settings
from vqgan_train.images.sources import Damage, Source, from_folder, from_shards, from_tables
from vqgan_train.shards.naming import expand_shards, expand_sources
from vqgan_train.system.devices import choose_device
from vqgan_train.system.errors import TokenError
from vqgan_train.system.processes import Share, share_of_process
from vqgan_train.tokens.batches import Batch, Row, load_batches
from vqgan_train.tokens.formats import FORMATS, TokenFormat, require_installed
from vqgan_train.tokens.ledger import LEDGER, join_job, remove_leftovers, report_done, reports
from vqgan_train.tokens.metadata import TokenMetadata
from vqgan_train.tokens.tokenizer import Tokenizer, load_tokenizer

REMEDY = (
    "Mend the source and begin again with another output, or go on with the same command and a "
    "larger max_bad_fraction."
)
"""What to do where too many images are bad."""


class Output(NamedTuple):
    """Where tokens go, and as what."""

    folder: Path
    token_format: TokenFormat
    metadata: TokenMetadata

    def write(self, part: str, rows: list[Row], report: PartReport) -> None:
        """Write a part's file, then that it is done. Without any row there is no file.

        Raises:
            TokenError: the disk is full, or the folder cannot be written.
        """
        try:
            if rows:
                self.token_format.write(self.folder / self.name(part), rows, self.metadata)
            report_done(self.folder, part, report)
        except OSError as error:
            raise TokenError(
                f"{self.folder / self.name(part)} cannot be written: {error.strerror or error}. "
                "What is done is kept; make room, and the same command goes on."
            ) from error

    def name(self, part: str) -> str:
        """What a part's file is called."""
        return part + self.token_format.ending


class Outcome(NamedTuple):
    """What became of all samples so far, by whatever process."""

    done: PartReport
    num_done: int
    """Parts."""

    num_parts: int


def begin(source: Source, output: Output, batch_size: int, device: str) -> None:
    """Begin a folder, or go on with it.

    Args:
        source: the samples.
        output: the folder, and what its files say.
        batch_size: images at once.
        device: kind of the device that computes, such as cpu or cuda.

    Raises:
        PreparationError: it was begun with other samples, another checkpoint or other settings.
        TokenError: it holds something else.
    """
    job = {
        "command": "encode",
        "samples": source.fingerprint,
        "files": f"{len(source.sizes)} of {max(source.sizes)} samples at most",
        "format": output.token_format.ending,
        # Sums of other batches are rounded otherwise, and a token in a million is another one; so
        # they are on other devices.
        "batch_size": batch_size,
        "device": device,
        **{f"tokens' {k}": getattr(output.metadata, k) for k in output.metadata.__slots__},
    }
    join_job(output.folder, job)


def left_to_do(source: Source, output: Output, share: Share) -> list[str]:
    """The parts of this process's share that are not done."""
    mine = share.of(source.part_names())
    done = reports(output.folder, mine)
    return [part for part in mine if part not in done]


def encode_parts(
    source: Source,
    output: Output,
    tokenizer: Tokenizer,
    *,
    parts: Sequence[str],
    batch_size: int,
    num_workers: int,
    max_bad_fraction: float,
    bar: tqdm[Any],
) -> None:
    """Encode some parts, each into a file.

    Args:
        source: the samples.
        output: where the tokens go.
        tokenizer: makes them.
        parts: names of those to encode.
        batch_size: images at once.
        num_workers: processes that read and decode images; 0 does so in this one.
        max_bad_fraction: of the images seen, those of done parts included, once that are 100;
            beyond it the command stops.
        bar: the progress bar, moved by each sample; the first bad ones are named above it.

    Raises:
        ShardError: a shard has changed since it was indexed, or cannot be had.
        TokenError: an image file cannot be read, too many images are bad, the source has changed,
            the precision will not do, or a file cannot be written.
    """
    metadata = output.metadata
    remove_leftovers(output.folder, set(parts))
    batches = load_batches(
        source.parts(set(parts)),
        resize=(metadata.resize[0], metadata.resize[1]),
        image_size=(metadata.image_size[0], metadata.image_size[1]),
        interpolation=metadata.interpolation,
        batch_size=batch_size,
        num_workers=num_workers,
    )
    rows: list[Row] = []
    report = PartReport()
    bad_images = BadImages(outcome(source, output).done, max_bad_fraction, bar, REMEDY)
    for batch in batches:
        bad_images.count(_report(batch))
        rows += _rows(batch, tokenizer, metadata.pixel_range)
        report.add(_report(batch))
        if batch.is_last:
            output.write(batch.part, rows, report)
            rows, report = [], PartReport()
        bar.update(len(batch.labels) + len(batch.bad))
    source.require_unchanged()


def outcome(source: Source, output: Output) -> Outcome:
    """Sum up what lies in the folder."""
    names = source.part_names()
    found = reports(output.folder, names)
    total = PartReport()
    for report in found.values():
        total.add(report)
    return Outcome(total, len(found), len(names))


def _rows(batch: Batch, tokenizer: Tokenizer, pixel_range: str) -> list[Row]:
    if not batch.labels:
        return []
    tokens = tokenizer.encode(batch.pixels, pixel_range).numpy().astype(np.int32)
    return [Row(labels, own) for labels, own in zip(batch.labels, tokens, strict=True)]


def _report(batch: Batch) -> PartReport:
    return PartReport(
        seen=len(batch.labels) + len(batch.bad),
        encoded=len(batch.labels),
        without_caption=sum(not labels.caption for labels in batch.labels),
        bad=batch.bad,
    )


SHOWN_AT_MOST = 5


def encode(config: EncodeConfig) -> None:
    """Find the samples, encode those of this process that are not done, say what became of them."""
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
    sizes = dict(zip(source.part_names(), source.sizes, strict=True))
    name = "encoding" if share.ranks == 1 else f"encoding, process {share.rank} of {share.ranks}"
    return tqdm(total=sum(sizes[part] for part in parts), desc=name, unit="image")


def report(found: Outcome, output: Output, damage: Damage) -> str:
    """Say what lies in the folder, whichever process put it there.

    Raises:
        TokenError: no image could be read.
    """
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
