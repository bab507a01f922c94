"""What happens beside the steps: metrics, pictures, checkpoints, progress."""

from vqgan_train.training.callbacks.artifacts import Artifacts
from vqgan_train.training.callbacks.bad_samples import BadSamples, WholeData
from vqgan_train.training.callbacks.checkpoints import Checkpoints
from vqgan_train.training.callbacks.metrics_log import LastValidation, MetricsLog
from vqgan_train.training.callbacks.non_finite import NonFiniteError, SkipNonFinite
from vqgan_train.training.callbacks.pictures import Pictures
from vqgan_train.training.callbacks.progress import Progress, Summary
from vqgan_train.training.callbacks.rank_consistency import AverageBatchNorm, SameStart
from vqgan_train.training.callbacks.speed import Compilation, Profile
from vqgan_train.training.callbacks.stop_signals import StopSignals

__all__ = [
    "Artifacts",
    "AverageBatchNorm",
    "BadSamples",
    "Checkpoints",
    "Compilation",
    "LastValidation",
    "MetricsLog",
    "NonFiniteError",
    "Pictures",
    "Profile",
    "Progress",
    "SameStart",
    "SkipNonFinite",
    "StopSignals",
    "Summary",
    "WholeData",
]
