"""WebDataset shards: names, tar contents, indices, and writing."""
