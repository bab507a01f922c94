"""Images from shards, folders and tables, read and transformed into tensors."""
