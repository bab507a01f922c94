"""Lightning callbacks: all that happens around the training steps.

A hook names only the arguments that it uses; `*_` takes the rest of those that Lightning passes.
"""

from vqgan_train.training.callbacks.artifacts import Artifacts
from vqgan_train.training.callbacks.bad_samples import BadSamples, DataEndCheck
from vqgan_train.training.callbacks.checkpoints import Checkpoints
from vqgan_train.training.callbacks.compilation import Compilation
from vqgan_train.training.callbacks.metrics_log import LastValidation, MetricsLog
from vqgan_train.training.callbacks.non_finite import SkipNonFinite
from vqgan_train.training.callbacks.pictures import Pictures
from vqgan_train.training.callbacks.profile import Profile
from vqgan_train.training.callbacks.progress import Progress, ValidationSummary
from vqgan_train.training.callbacks.rank_consistency import BatchNormAverage, SameStartCheck
from vqgan_train.training.callbacks.stop_signals import StopSignals

__all__ = [
    "Artifacts",
    "BadSamples",
    "BatchNormAverage",
    "Checkpoints",
    "Compilation",
    "DataEndCheck",
    "LastValidation",
    "MetricsLog",
    "Pictures",
    "Profile",
    "Progress",
    "SameStartCheck",
    "SkipNonFinite",
    "StopSignals",
    "ValidationSummary",
]
