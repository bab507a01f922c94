from cached_photos import cache, photo_shards

__all__ = ["cache", "photo_shards"]
