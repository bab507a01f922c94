"""WebDataset shards: file names, tar contents, sample indices, and writing."""
