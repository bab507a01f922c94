"""A model and all that is known of it in one folder, as Hugging Face's hub shows it."""

from vqgan_train.release.choices import Choices
from vqgan_train.release.errors import ReleaseError
from vqgan_train.release.folder import Release, write_release
from vqgan_train.release.hub import Hub

__all__ = ["Choices", "Hub", "Release", "ReleaseError", "write_release"]
