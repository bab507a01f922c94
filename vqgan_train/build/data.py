"""The data, from its settings."""

from pathlib import Path

from vqgan_train.config import Config, DataConfig
from vqgan_train.data import ImageTransform, ShardError, expand_shards, pack_sample_photos
from vqgan_train.data.module import ShardDataModule


def build_data(config: Config) -> ShardDataModule:
    """Find the shards and say how to read them."""
    data = config.data
    train, val = _find_shards(data)
    return ShardDataModule(
        train_shards=train,
        val_shards=val,
        train_transform=ImageTransform(
            data.resize, data.image_size, data.random_crop, data.random_flip
        ),
        val_transform=ImageTransform(
            data.resize, data.image_size, random_crop=False, random_flip=False
        ),
        batch_size=data.batch_size,
        num_workers=data.num_workers,
        seed=config.run.seed,
    )


def _find_shards(data: DataConfig) -> tuple[list[Path], list[Path]]:
    if data.train_shards is None:
        photos = pack_sample_photos()
        return [photos[0]], [photos[1]]
    train, val = expand_shards(data.train_shards), expand_shards(data.val_shards)
    shared = sorted(set(train) & set(val))
    if shared:
        raise ShardError(
            f"data.train_shards and data.val_shards share {len(shared)} shards, for example "
            f"{shared[0]}: validation would be of images that were trained on. Keep them apart."
        )
    return train, val
