"""Encode images into token files, one per chunk of samples; an interrupted command resumes."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from vqgan_train.checkpoint.fetching import fetch_checkpoint
from vqgan_train.config.tokens import EncodeConfig
from vqgan_train.images.bad_images import BadImages, ChunkReport, require_few_dead
from vqgan_train.images.sources import ImageSource, from_folder, from_shards, from_tables
from vqgan_train.images.transforms import ImageTransform
from vqgan_train.shards.naming import expand_shards, expand_sources
from vqgan_train.shards.remote.store import open_store
from vqgan_train.system.devices import choose_device
from vqgan_train.system.errors import UserError
from vqgan_train.system.job_file import join_job
from vqgan_train.system.launch import ProcessRank, find_process_rank
from vqgan_train.system.packages import require_packages
from vqgan_train.tokens.batches import EncodeBatch, load_batches
from vqgan_train.tokens.formats import FORMATS, TokenFormat, TokenRow
from vqgan_train.tokens.ledger import (
    LEDGER,
    LEDGER_JOB_FILE,
    read_reports,
    remove_leftovers,
    write_report,
)
from vqgan_train.tokens.metadata import TokenMetadata
from vqgan_train.tokens.tokenizer import Tokenizer, load_tokenizer

REMEDY = (
    "Fix the source and start again with another output, or resume with the same command and a "
    "larger max_bad_fraction."
)
"""Advice in the message about too many bad images."""

MAX_PARQUET_TOKENS = 2**31 - 1
"""Most tokens of a parquet file, because its lists begin at offsets of 32 bits."""

MAX_LISTED = 5
"""Most problems of each kind that the summary lists at the end."""


def encode(config: EncodeConfig) -> None:
    """Encode this process's share of the samples; then print what all processes have done."""
    process = find_process_rank(os.environ)
    device = choose_device(config.accelerator.value, process.local_rank)
    token_format = FORMATS[config.format.value]
    if token_format is FORMATS["parquet"]:
        require_packages("parquet", "Parquet files need", "pyarrow")
    checkpoint = fetch_checkpoint(config.checkpoint, "checkpoint")
    tokenizer = load_tokenizer(checkpoint, device, config.precision.value)
    metadata = tokenizer.describe(
        pixel_range=config.pixel_range.value,
        resize=config.resize,
        image_size=config.image_size,
        interpolation=config.interpolation.value,
    )
    source = find_samples(config)
    require_few_dead(source.damage.dead, source.damage.num_shards, config.max_bad_fraction)
    output = Output(Path(config.output).expanduser(), token_format, metadata)
    begin_job(source, output, config.batch_size, device.type, exif_rotate=config.exif_rotate)
    chunks = remaining_chunks(source, output, process)
    sizes = dict(zip(source.chunk_names(), source.sizes, strict=True))
    total = sum(sizes[chunk] for chunk in chunks)
    with tqdm(total=total, desc=process.title("encoding"), unit="image") as bar:
        encode_chunks(
            source,
            output,
            tokenizer,
            chunks=chunks,
            batch_size=config.batch_size,
            num_workers=config.num_workers,
            max_bad_fraction=config.max_bad_fraction,
            exif_rotate=config.exif_rotate,
            bar=bar,
        )
    sys.stdout.write(summary(source, output))


def find_samples(config: EncodeConfig) -> ImageSource:
    """List the samples of the configured shards, folder or tables.

    Raises:
        UserError: a file or folder is missing, or a table, the folder or all shards are unreadable.
    """
    max_samples = config.samples_per_file
    if config.shards is not None:
        shards = [shard for source in expand_sources(config.shards) for shard in source]
        store = open_store(
            shards,
            config.cache_dir,
            config.cache_gb,
            config.stall_seconds,
            config.attempts,
            config.patience_seconds,
        )
        return from_shards(shards, max_samples, store, config.image_field)
    if config.folder is not None:
        return from_folder(Path(config.folder).expanduser(), max_samples)
    tables = expand_shards(config.tables, noun="tables", ending=".parquet")
    return from_tables(tables, config.path_column, config.caption_column, max_samples)


class Output(NamedTuple):
    """The folder, format and metadata of the token files."""

    folder: Path
    token_format: TokenFormat
    metadata: TokenMetadata

    def write(self, chunk: str, rows: list[TokenRow], report: ChunkReport) -> None:
        """Write a chunk's file, then the report that it is done. Without rows, only the report.

        Raises:
            UserError: the disk is full, or the folder cannot be written.
        """
        file = self.folder / f"{chunk}{self.token_format.ending}"
        try:
            if rows:
                self.token_format.write(file, rows, self.metadata)
            write_report(self.folder, chunk, report)
        except OSError as error:
            raise UserError(
                f"{file} cannot be written: {error.strerror or error}. Finished files are kept. "
                "Make room, or make the folder writable; the same command then resumes."
            ) from error


def begin_job(
    source: ImageSource, output: Output, batch_size: int, device: str, *, exif_rotate: bool
) -> None:
    """Start the job in the output folder, or resume it there; `device` is a type: cpu, cuda or mps.

    Raises:
        UserError: the folder was started with other samples, another checkpoint, other settings or
            on another type of device; it holds other files; or a file would hold too many tokens.
    """
    tokens = math.prod(output.metadata.grid)
    is_parquet = output.token_format is FORMATS["parquet"]
    if is_parquet and max(source.sizes) * tokens > MAX_PARQUET_TOKENS:
        raise UserError(
            f"{max(source.sizes):,} images of {tokens:,} tokens are more than a parquet file of "
            f"lists can hold. Set samples_per_file to at most {MAX_PARQUET_TOKENS // tokens}."
        )
    job = {
        "command": "encode",
        "samples": source.fingerprint,
        "files": f"{len(source.sizes)} of {max(source.sizes)} samples at most",
        "format": output.token_format.ending,
        # Other batches, or another device, round otherwise, which changes one token in a million.
        "batch_size": batch_size,
        "device": device,
        **({"exif_rotate": True} if exif_rotate else {}),  # earlier versions did not turn
        **{f"tokens' {k}": getattr(output.metadata, k) for k in output.metadata.__slots__},
    }
    join_job(output.folder, job, LEDGER_JOB_FILE)


def remaining_chunks(source: ImageSource, output: Output, process: ProcessRank) -> list[str]:
    """Return the names of those chunks of this process's share that are not done."""
    chunks = process.select(source.chunk_names())
    done = read_reports(output.folder, chunks)
    return [chunk for chunk in chunks if chunk not in done]


def encode_chunks(
    source: ImageSource,
    output: Output,
    tokenizer: Tokenizer,
    *,
    chunks: Sequence[str],
    batch_size: int,
    num_workers: int,
    max_bad_fraction: float,
    exif_rotate: bool,
    bar: tqdm[Any],
) -> None:
    """Encode chunks, each into a file.

    Args:
        source: the samples.
        output: where the tokens are written.
        tokenizer: encodes the images.
        chunks: names of the chunks to encode.
        batch_size: number of images per batch.
        num_workers: number of processes that read and decode images; 0: this process does.
        max_bad_fraction: fraction of the images, those of finished chunks too, that may be bad.
        exif_rotate: turn images as their EXIF says.
        bar: progress bar, advanced by each sample; the first bad images are named above it.

    Raises:
        ShardError: a shard has changed since it was indexed, or it cannot be downloaded.
        UserError: an image file cannot be read, too many images are bad, the source has changed,
            the values of the networks overflow, or a file cannot be written.
    """
    metadata = output.metadata
    remove_leftovers(output.folder, set(chunks))
    transform = ImageTransform(
        (metadata.resize[0], metadata.resize[1]),
        (metadata.image_size[0], metadata.image_size[1]),
        interpolation=metadata.interpolation,
        exif_rotate=exif_rotate,
    )
    batches = load_batches(
        source.chunks(set(chunks)), transform, batch_size=batch_size, num_workers=num_workers
    )
    rows: list[TokenRow] = []
    report = ChunkReport()
    before = total_report(read_reports(output.folder, source.chunk_names()).values())
    bad_images = BadImages(before, max_bad_fraction, bar, REMEDY)
    for batch in batches:
        batch_report = _report(batch)
        bad_images.count(batch_report)
        rows += _rows(batch, tokenizer, metadata.pixel_range)
        report.add(batch_report)
        if batch.is_last:
            output.write(batch.chunk, rows, report)
            rows, report = [], ChunkReport()
        bar.update(batch_report.seen)
    source.require_unchanged()


def _rows(batch: EncodeBatch, tokenizer: Tokenizer, pixel_range: str) -> list[TokenRow]:
    if not batch.labels:
        return []
    tokens = tokenizer.encode(batch.pixels, pixel_range).numpy().astype(np.int32)
    return [TokenRow(labels, row) for labels, row in zip(batch.labels, tokens, strict=True)]


def _report(batch: EncodeBatch) -> ChunkReport:
    return ChunkReport(
        seen=len(batch.labels) + len(batch.bad),
        encoded=len(batch.labels),
        without_caption=sum(not labels.caption for labels in batch.labels),
        bad=batch.bad,
    )


def total_report(reports: Iterable[ChunkReport]) -> ChunkReport:
    """Add up the reports of several chunks."""
    total = ChunkReport()
    for report in reports:
        total.add(report)
    return total


def summary(source: ImageSource, output: Output) -> str:
    """Describe what is in the output folder, whichever process wrote it.

    Raises:
        UserError: all chunks are done, but no image could be read.
    """
    names, damage, metadata = source.chunk_names(), source.damage, output.metadata
    reports = read_reports(output.folder, names)
    report, is_done = total_report(reports.values()), len(reports) == len(names)
    if is_done and not report.encoded:
        raise UserError(
            f"None of the {report.seen} images could be read, for example {report.bad[0]}. Check "
            "the source, and start again with another output."
        )
    rows, columns = metadata.grid
    lines = [
        f"encoded  {report.encoded:,} of {report.seen:,} images, {rows} x {columns} tokens each, "
        f"pixel range {metadata.pixel_range}",
        f"files    {len(reports)} of {len(names)}: '{output.folder}/*{output.token_format.ending}'",
    ]
    if not is_done:
        lines.append("         the others are written by other processes, or at the next start")
    if report.without_caption:
        lines.append(f"captions {report.without_caption:,} images have none")
    ledger = f"by name in {output.folder}/{LEDGER}"
    lines += _listed("bad", report.bad, "images could not be read", ledger)
    at_start = "named at the start"
    lines += _listed("dead", damage.dead, "shards hold nothing that could be read", at_start)
    lines += _listed("damaged", damage.partly, "shards have lost samples", at_start)
    return "\n".join([*lines, ""])


def _listed(word: str, problems: list[str], what: str, where: str) -> list[str]:
    """Return lines that count problems, list the first, and say where the others are named."""
    if not problems:
        return []
    more = len(problems) - MAX_LISTED
    return [
        f"{word:<8} {len(problems):,} {what}:",
        *[f"         {problem}" for problem in problems[:MAX_LISTED]],
        *[f"         and {more:,} more, {where}"] * (more > 0),
    ]
