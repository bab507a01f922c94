"""Build the training and validation data from their settings."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from vqgan_train.config.data import DataConfig, Sampling
from vqgan_train.config.run import Config
from vqgan_train.images.transforms import ImageTransform
from vqgan_train.shards.naming import expand_sources
from vqgan_train.shards.remote.store import open_store
from vqgan_train.shards.sample_photos import pack_sample_photos
from vqgan_train.system.errors import ShardError
from vqgan_train.system.loader_processes import require_shared_memory
from vqgan_train.training.data.data_module import ShardDataModule
from vqgan_train.training.data.interleaved import INTERLEAVE_BLOCK, InterleavedOrder
from vqgan_train.training.data.loader import BATCHES_PER_WORKER
from vqgan_train.training.data.orders import FullShuffle, SampleOrder, WindowedShuffle
from vqgan_train.training.data.weighted import WeightedSampling
from vqgan_train.training.run.start import RunStart
from vqgan_train.training.setup.quantities import world_size

log = logging.getLogger(__name__)

Sources = list[list[Path | str]]
"""Shards of each configured pattern: paths of local ones, addresses of remote ones."""


def open_data(config: Config, start: RunStart) -> ShardDataModule:
    """Build the data, index its shards, try some samples, and go to the position of `start`.

    Raises:
        ShardError: shards are missing, unreadable, without images or named twice; or shards or
            sample order are not those that `start` was trained on.
        UserError: /dev/shm is too small for the batches that are read ahead.
    """
    data = build_data(config)
    batch_bytes = config.data.batch_size * 3 * config.data.image_size**2
    batches = BATCHES_PER_WORKER * config.data.num_workers * int(config.trainer.devices)
    require_shared_memory(batches * batch_bytes, "data.num_workers")
    data.prepare_data()
    data.require_readable()
    if start.data is not None:
        data.load_state_dict(start.data)
        data.compare_validation(start.data)
    return data


def build_data(config: Config) -> ShardDataModule:
    """Find the shards, and build the data module that reads them; no shard is opened yet."""
    data = config.data
    train, val = _find_shards(data)
    sizes = [len(source) for source in train]
    if data.shard_lanes is not None and world_size(config) > 1:
        _warn_of_shared_lanes(data.shard_lanes, data.batch_size * world_size(config))

    train_shards = [shard for source in train for shard in source]
    val_shards = [shard for source in val for shard in source]
    return ShardDataModule(
        train_shards=train_shards,
        val_shards=val_shards,
        store=open_store(
            [*train_shards, *val_shards],
            data.cache_dir,
            data.cache_gb,
            data.stall_seconds,
            data.attempts,
            data.patience_seconds,
        ),
        make_order=partial(build_order, data, config.run.seed, sources=sizes),
        train_transform=ImageTransform(
            data.resize,
            data.image_size,
            data.random_crop,
            data.random_flip,
            exif_rotate=data.exif_rotate,
        ),
        val_transform=ImageTransform(data.resize, data.image_size, exif_rotate=data.exif_rotate),
        batch_size=data.batch_size,
        num_workers=data.num_workers,
        seed=config.run.seed,
        image_field=data.image_field,
    )


def build_order(
    data: DataConfig, seed: int, counts: Sequence[int], *, sources: Sequence[int]
) -> SampleOrder:
    """Build the order of training samples.

    Args:
        data: settings of sampling and shuffling.
        seed: seed of the order.
        counts: number of samples in each shard.
        sources: number of shards of each pattern.
    """
    if data.sampling is Sampling.with_replacement:
        return WeightedSampling(counts, sources, data.source_weights, seed, data.shuffle_shards)
    if data.shuffle_shards is not None and data.shard_lanes is not None:
        return InterleavedOrder(counts, seed, data.shuffle_shards, data.shard_lanes)
    if data.shuffle_shards is not None:
        return WindowedShuffle(counts, seed, data.shuffle_shards)
    return FullShuffle(sum(counts), seed)


def _warn_of_shared_lanes(lanes: int, images: int) -> None:
    """Warn if batches do not fit the lanes, so that several devices read a lane's shards."""
    if lanes * INTERLEAVE_BLOCK % images:
        log.warning(
            "WARNING: data.shard_lanes=%d x %d images is no multiple of the %d images that all "
            "devices read at a time, so each lane is read by several devices.",
            lanes,
            INTERLEAVE_BLOCK,
            images,
        )


def _find_shards(data: DataConfig) -> tuple[Sources, Sources]:
    if data.train_shards is None:
        photos = pack_sample_photos()
        return [[photos[0]]], [[photos[1]]]
    train, val = expand_sources(data.train_shards), expand_sources(data.val_shards)
    in_both = set().union(*train) & set().union(*val)
    shared = sorted(str(shard) for shard in in_both)
    if shared:
        raise ShardError(
            f"data.train_shards and data.val_shards share {len(shared)} shards, for example "
            f"{shared[0]}: validation would measure training images. Name each shard only once."
        )
    return train, val
