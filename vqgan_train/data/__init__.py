"""Images out of WebDataset shards: what is there, in which order, read and transformed."""

from vqgan_train.data.fingerprint import fingerprint
from vqgan_train.data.index import ShardIndex, index_shard, index_shards
from vqgan_train.data.photos import pack_sample_photos, sample_views
from vqgan_train.data.pipeline import PlannedBatches, ShardDataset, collate
from vqgan_train.data.plan import Plan
from vqgan_train.data.shards import ShardError, expand_shards, expand_sources
from vqgan_train.data.transforms import ImageTransform

__all__ = [
    "ImageTransform",
    "Plan",
    "PlannedBatches",
    "ShardDataset",
    "ShardError",
    "ShardIndex",
    "collate",
    "expand_shards",
    "expand_sources",
    "fingerprint",
    "index_shard",
    "index_shards",
    "pack_sample_photos",
    "sample_views",
]
