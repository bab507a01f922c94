"""What happens beside the steps: metrics, pictures, checkpoints, progress."""

from vqgan_train.callbacks.artifacts import Artifacts
from vqgan_train.callbacks.bad_samples import BadSamples
from vqgan_train.callbacks.batch_norm import AverageBatchNorm
from vqgan_train.callbacks.checkpoints import Checkpoints
from vqgan_train.callbacks.compilation import Compilation
from vqgan_train.callbacks.last_validation import LastValidation
from vqgan_train.callbacks.metrics_log import MetricsLog
from vqgan_train.callbacks.non_finite import NonFiniteError, SkipNonFinite
from vqgan_train.callbacks.pictures import Pictures
from vqgan_train.callbacks.profile import Profile
from vqgan_train.callbacks.progress import Progress
from vqgan_train.callbacks.same_start import SameStart
from vqgan_train.callbacks.stop_signals import StopSignals
from vqgan_train.callbacks.summary import Summary
from vqgan_train.callbacks.whole_data import WholeData

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
