"""Remote shards: downloaded whole into a cache on disk and read from there."""
