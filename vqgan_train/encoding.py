"""Images into files of tokens: one file a part, each sample once, whatever happens in between."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from vqgan_train.tokenizer import Tokenizer
from vqgan_train.tokens.bad_images import BadImages
from vqgan_train.tokens.errors import TokenError
from vqgan_train.tokens.formats import TokenFormat
from vqgan_train.tokens.job import PartReport, join_job, remove_leftovers, report_done, reports
from vqgan_train.tokens.loading import Batch, load_batches
from vqgan_train.tokens.metadata import TokenMetadata
from vqgan_train.tokens.rows import Row
from vqgan_train.tokens.share import Share
from vqgan_train.tokens.sources import Source

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
    bar: "tqdm[Any]",
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
