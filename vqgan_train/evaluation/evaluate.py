"""Body of `python -m vqgan_train.evaluate`: measures checkpoints on the same images."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from vqgan_train.checkpoint.fetching import fetch_checkpoint
from vqgan_train.config.evaluation import EvaluateConfig
from vqgan_train.evaluation.image_batches import ReadingRules, slice_rule
from vqgan_train.evaluation.job import Checkpoint, EvaluationJob, run_job
from vqgan_train.evaluation.job_consistency import require_same_job
from vqgan_train.evaluation.kept_pictures import add_pictures
from vqgan_train.evaluation.metric_suite import RequestedMetrics, load_metric_suite
from vqgan_train.evaluation.page import write_page
from vqgan_train.evaluation.report.evaluation_folder import (
    PAGE_FILE,
    require_output,
    write_evaluation,
    write_pictures,
)
from vqgan_train.evaluation.report.text_table import left_out_lines, table_lines
from vqgan_train.images.bad_images import require_few_dead
from vqgan_train.images.sources import ImageSource, from_folder, from_shards
from vqgan_train.images.transforms import ImageTransform
from vqgan_train.metrics.faces import find_faces
from vqgan_train.metrics.history import rows_beside
from vqgan_train.shards.naming import expand_sources
from vqgan_train.shards.remote.store import open_store
from vqgan_train.system.addresses import redact
from vqgan_train.system.devices import choose_device
from vqgan_train.system.launch import ProcessRank, find_process_rank
from vqgan_train.system.process_group import process_group
from vqgan_train.tokens.tokenizer import load_tokenizer


def evaluate(config: EvaluateConfig) -> None:
    """Measure the checkpoints on the images, print the table, and write all results."""
    process = find_process_rank(os.environ)
    output = Path(config.output).expanduser()
    with process_group(process):
        if process.rank == 0:  # the only process that writes
            require_output(output)
        job = prepare(config, process)
        require_same_job(job, process)
        with tqdm(
            total=sum(process.select(job.source.sizes)),
            desc=process.title("evaluating"),
            unit="image",
            disable=process.rank > 0,
        ) as bar:
            evaluation = run_job(job, process, bar)
    if evaluation is not None:
        # Print and write the numbers first, because pictures and page may fail: the disk may be
        # full, or an image removed.
        sys.stdout.write("\n".join([*table_lines(evaluation), ""]))
        write_evaluation(evaluation, output)
        pictured = add_pictures(job, evaluation)
        write_pictures(pictured, output)
        runs = {checkpoint.name: rows_beside(checkpoint.source) for checkpoint in job.checkpoints}
        write_page(output / PAGE_FILE, pictured, runs=runs)
        lost = [left for left in pictured.left_out if left not in evaluation.left_out]
        sys.stdout.write("\n".join([*left_out_lines(lost), f"Written to {output}", ""]))


def prepare(config: EvaluateConfig, process: ProcessRank) -> EvaluationJob:
    """Find the images, load the checkpoints and the metrics.

    Raises:
        UserError: the pattern of a slice is not a regular expression, too many shards are dead, or
            `find_images`, `load_checkpoints` or `load_metric_suite` raised it.
    """
    slices = {
        name: slice_rule(name, rule.column, rule.pattern) for name, rule in config.slices.items()
    }
    source = find_images(config)
    require_few_dead(source.damage.dead, source.damage.num_shards, config.max_bad_fraction)
    checkpoints = load_checkpoints(config, process)
    requested = RequestedMetrics(
        metrics=[metric.value for metric in config.metrics],
        faces=config.faces.detect,
        slices=slices,
        lpips_weights=config.lpips_weights,
        alexnet_weights=config.alexnet_weights,
        inception_weights=config.inception_weights,
    )
    suite, left_out = load_metric_suite(requested, checkpoints[0].tokenizer.device)
    return EvaluationJob(
        source=source,
        given=tuple(map(redact, config.shards or [str(config.folder)])),
        checkpoints=checkpoints,
        suite=suite,
        left_out=left_out,
        rules=ReadingRules(
            ImageTransform(config.resize, config.image_size, exif_rotate=config.exif_rotate),
            slices,
            find_faces if suite.faces is not None else None,
        ),
        pixel_range=config.pixel_range.value,
        num_workers=config.num_workers,
        max_bad_fraction=config.max_bad_fraction,
        pictures_each=config.pictures,
        resamples=config.bootstrap.resamples,
    )


def find_images(config: EvaluateConfig) -> ImageSource:
    """List the images, in parts of one batch each.

    Raises:
        UserError: the shards or the folder are missing, cannot be listed, or hold no image.
    """
    if config.folder is not None:
        return from_folder(Path(config.folder).expanduser(), config.batch_size)
    shards = [shard for source in expand_sources(config.shards) for shard in source]
    store = open_store(
        shards,
        config.cache_dir,
        config.cache_gb,
        config.stall_seconds,
        config.attempts,
        config.patience_seconds,
    )
    return from_shards(shards, config.batch_size, store, config.image_field)


def load_checkpoints(config: EvaluateConfig, process: ProcessRank) -> list[Checkpoint]:
    """Load all checkpoints, after downloading those that are given by an address.

    Raises:
        UserError: a checkpoint is unavailable, unreadable or not a VQGAN for RGB images; image_size
            is not a multiple of its downsampling factor; or the device does not exist.
    """
    device = choose_device(config.accelerator.value, process.local_rank)
    names = config.names or checkpoint_names(config.checkpoint)
    checkpoints = []
    for name, source in zip(names, config.checkpoint, strict=True):
        path = fetch_checkpoint(source, "checkpoint")
        tokenizer = load_tokenizer(path, device, config.precision.value)
        tokenizer.describe(  # raises for sizes that the model cannot encode
            pixel_range=config.pixel_range.value,
            resize=config.resize,
            image_size=config.image_size,
        )
        checkpoints.append(Checkpoint(name, source, tokenizer))
    return checkpoints


SCHEME = re.compile(r"^\w+://")
ENDINGS = re.compile(r"\.(ckpt|pt|pth|safetensors|msgpack|bin)$")
RESERVED_NAMES = {"", "slice"}
"""Names that no checkpoint gets: in images.csv, `slice:psnr` would be the column of a slice."""


def checkpoint_names(sources: Sequence[str]) -> list[str]:
    """Name checkpoints by their files; if those are equal, by the parts in which the paths differ.

    `runs/a/checkpoints/best.ckpt` and `runs/b/checkpoints/best.ckpt` become `a` and `b`. If names
    are still equal, or one is reserved, each is the file's name with a number.
    """
    paths = [
        ENDINGS.sub("", SCHEME.sub("", redact(source).partition("#")[0])).split("/")
        for source in sources
    ]
    names = [path[-1] for path in paths]
    if len(set(names)) < len(names):
        shared = set.intersection(*map(set, paths))
        names = ["/".join(part for part in path if part not in shared) for path in paths]
    if len(set(names)) < len(names) or RESERVED_NAMES & set(names):
        names = [f"{path[-1]} {number}" for number, path in enumerate(paths, start=1)]
    return names
