"""Write a release: weights, settings, metrics and a model card in one folder."""

from vqgan_train.release.card import CardMetadata
from vqgan_train.release.folder import Release, write_release
from vqgan_train.release.hub import Hub
from vqgan_train.release.lineage import ReleaseError

__all__ = ["CardMetadata", "Hub", "Release", "ReleaseError", "write_release"]
