"""Prepare data: from public lists and folders of images to shards."""
