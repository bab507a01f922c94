"""Check shards before training reads them."""
