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
    # On first use only: torch takes 2 s to import and Lightning 6, which a typo in an option, or a
    # user of VQGAN alone, should not pay for.
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
