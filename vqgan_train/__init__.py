"""Fine-tune the VQGAN f16-16384 image tokenizer on your own photos."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vqgan_train.models import VQGAN
    from vqgan_train.training.lightning.module import VQGANModule

__version__ = "0.1.0"
__all__ = ["VQGAN", "VQGANModule"]

_HOME = {"VQGAN": "vqgan_train.models", "VQGANModule": "vqgan_train.training.lightning.module"}


def __getattr__(name: str) -> Any:
    # Imported on first use, because torch takes 2 s and Lightning 6 s: a typo in an option is
    # reported without either, and VQGAN is imported without Lightning.
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
