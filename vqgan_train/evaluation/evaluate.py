"""`python -m vqgan_train.evaluate`: what checkpoints are worth, side by side."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vqgan_train.checkpoint.fetching import fetch_checkpoint
from vqgan_train.config import EvaluateConfig
from vqgan_train.evaluation.checkpoint_names import checkpoint_names
from vqgan_train.evaluation.image_batches import ReadingRules, slice_rule
from vqgan_train.evaluation.job import Checkpoint, EvaluationJob, run_job, share_size
from vqgan_train.evaluation.job_consistency import require_same_job
from vqgan_train.evaluation.kept_pictures import with_pictures
from vqgan_train.evaluation.metric_suite import Wanted, WeightFiles, faces_left_out, set_up
from vqgan_train.evaluation.page import write_page
from vqgan_train.evaluation.report.evaluation_folder import (
    PAGE_FILE,
    require_output,
    write_evaluation,
    write_pictures,
    written_into,
)
from vqgan_train.evaluation.report.text_table import left_out_lines, table_lines
from vqgan_train.images.bad_images import require_few_dead
from vqgan_train.images.locations import store_settings
from vqgan_train.images.sources import ImageSource, from_folder, from_shards
from vqgan_train.images.transforms import ImageTransform
from vqgan_train.metrics.faces import FaceFinder
from vqgan_train.metrics.history import rows_beside
from vqgan_train.shards.naming import expand_sources
from vqgan_train.system.devices import choose_device
from vqgan_train.system.launch import ProcessRank, find_process_rank
from vqgan_train.system.process_group import process_group
from vqgan_train.tokens.tokenizer import load_tokenizer


def evaluate(config: EvaluateConfig) -> None:
    """Measure the checkpoints on the images, write what was found, print the table."""
    process = find_process_rank(os.environ)
    output = Path(config.output).expanduser()
    with process_group(process):
        if process.rank == 0:  # which alone writes
            require_output(output)
        job = prepare(config, process)
        require_same_job(job, process)
        with progress(job.source, process) as bar:
            found = run_job(job, process, bar)
    if found is not None:
        # Before anything that may fail: a disk that is full, a picture that is gone.
        sys.stdout.write("\n".join([*table_lines(found), ""]))
        with written_into(output):
            write_evaluation(found, output)
            pictured = with_pictures(job, found)
            write_pictures(pictured, output)
            runs = {made.name: rows_beside(made.source) for made in found.checkpoints}
            write_page(output / PAGE_FILE, pictured, runs=runs)
        lost = [left for left in pictured.left_out if left not in found.left_out]
        sys.stdout.write("\n".join([*left_out_lines(lost), f"Written to {output}", ""]))


def prepare(config: EvaluateConfig, process: ProcessRank) -> EvaluationJob:
    """Find the images, read the checkpoints, load what measures."""
    no_faces = faces_left_out() if config.faces.detect else []
    wanted = what_to_measure(config, has_faces=config.faces.detect and not no_faces)
    rules = how_to_read(config, wanted)
    source = find_images(config)
    require_few_dead(source.damage.dead, source.damage.num_shards, config.max_bad_fraction)
    checkpoints = read_checkpoints(config, process)
    files = WeightFiles(config.lpips_weights, config.alexnet_weights, config.inception_weights)
    instruments, left_out = set_up(wanted, files, checkpoints[0].tokenizer.device)
    return EvaluationJob(
        source=source,
        given=tuple(config.shards or [str(config.folder)]),
        checkpoints=checkpoints,
        instruments=instruments,
        left_out=[*no_faces, *left_out],
        rules=rules,
        pixel_range=config.pixel_range.value,
        num_workers=config.num_workers,
        max_bad_fraction=config.max_bad_fraction,
        resamples=config.bootstrap.resamples,
        pictures_each=config.pictures,
    )


def what_to_measure(config: EvaluateConfig, *, has_faces: bool) -> Wanted:
    """Name the metrics and groups."""
    return Wanted([metric.value for metric in config.metrics], has_faces, list(config.slices))


def how_to_read(config: EvaluateConfig, wanted: Wanted) -> ReadingRules:
    """Say what becomes of an image, and what is looked for in it.

    Raises:
        SliceError: a pattern is no regular expression.
    """
    return ReadingRules(
        transform=ImageTransform(
            config.resize, config.image_size, random_crop=False, random_flip=False
        ),
        slices={
            name: slice_rule(name, rule.column, rule.pattern)
            for name, rule in config.slices.items()
        },
        faces=FaceFinder() if wanted.faces else None,
    )


def find_images(config: EvaluateConfig) -> ImageSource:
    """List the images, in parts of a batch each.

    Raises:
        ShardError, PreparationError: they are not there, or cannot be read.
    """
    if config.folder is not None:
        return from_folder(Path(config.folder).expanduser(), config.batch_size)
    shards = [shard for source in expand_sources(config.shards) for shard in source]
    store = store_settings(config.cache_dir, config.cache_gb, config.stall_seconds, config.attempts)
    return from_shards(shards, config.batch_size, store)


def read_checkpoints(config: EvaluateConfig, process: ProcessRank) -> list[Checkpoint]:
    """Fetch and read all checkpoints, before the first image is.

    Raises:
        CheckpointError: one cannot be had, cannot be read, or is no VQGAN.
        TokenError: its images have other channels, image_size is no multiple of its f, or there is
            no such device.
    """
    device = choose_device(config.accelerator.value, process.local_rank)
    names = config.names or checkpoint_names(config.checkpoint)
    found = []
    for name, source in zip(names, config.checkpoint, strict=True):
        path = fetch_checkpoint(source, "checkpoint")
        tokenizer = load_tokenizer(path, device, config.precision.value)
        tokenizer.describe(  # refuses a size that is no multiple of f
            pixel_range=config.pixel_range.value,
            resize=config.resize,
            image_size=config.image_size,
        )
        found.append(Checkpoint(name, source, tokenizer))
    return found


def progress(source: ImageSource, process: ProcessRank) -> tqdm[Any]:
    """A bar over the images of this process; only the first one's is shown."""
    processes = process.world_size
    name = "evaluating" if processes == 1 else f"evaluating, process 0 of {processes}"
    total = share_size(source, process)
    return tqdm(total=total, desc=name, unit="image", disable=process.rank > 0)
