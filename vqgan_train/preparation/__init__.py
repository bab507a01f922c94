"""From public lists and folders of images to the shards that training reads."""

from vqgan_train.preparation.errors import PreparationError

__all__ = ["PreparationError"]
