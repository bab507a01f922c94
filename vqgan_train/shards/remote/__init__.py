"""Shards behind addresses: fetched whole into a cache on disk and read from there."""
