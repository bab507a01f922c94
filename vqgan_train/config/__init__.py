"""Every setting there is: its type, its meaning, its unit and its range.

Values are in conf/*.yaml, never here. `slots=True` matters: without it Hydra takes a misspelt key
in silence.
"""

from vqgan_train.config.checks import ConfigError
from vqgan_train.config.composing import (
    Settings,
    config_dir,
    plain_settings,
    register_schema,
    setting_names,
    to_config,
)
from vqgan_train.config.data import DataConfig
from vqgan_train.config.decode import DecodeConfig
from vqgan_train.config.encode import (
    EncodeConfig,
    Interpolation,
    PixelRange,
    TokenFormat,
    TokenPrecision,
)
from vqgan_train.config.evaluate import EvaluateConfig, EvaluationMetric
from vqgan_train.config.export import ExportConfig, ExportFormat
from vqgan_train.config.links import LinksConfig
from vqgan_train.config.model import (
    AdaptiveWeightScope,
    ArchitectureConfig,
    DiscriminatorConfig,
)
from vqgan_train.config.pack import PackConfig
from vqgan_train.config.prepare_yfcc import PrepareYfccConfig
from vqgan_train.config.run import (
    Config,
    LearningRateScaling,
    WandbConfig,
    WandbMode,
)
from vqgan_train.config.select import PeopleConfig, SelectConfig
from vqgan_train.config.trainer import MemoryFormat, TrainerConfig
from vqgan_train.config.validation import HIGHER_IS_BETTER, ValidationMetric

__all__ = [
    "HIGHER_IS_BETTER",
    "AdaptiveWeightScope",
    "ArchitectureConfig",
    "Config",
    "ConfigError",
    "DataConfig",
    "DecodeConfig",
    "DiscriminatorConfig",
    "EncodeConfig",
    "EvaluateConfig",
    "EvaluationMetric",
    "ExportConfig",
    "ExportFormat",
    "Interpolation",
    "LearningRateScaling",
    "LinksConfig",
    "MemoryFormat",
    "PackConfig",
    "PeopleConfig",
    "PixelRange",
    "PrepareYfccConfig",
    "SelectConfig",
    "Settings",
    "TokenFormat",
    "TokenPrecision",
    "TrainerConfig",
    "ValidationMetric",
    "WandbConfig",
    "WandbMode",
    "config_dir",
    "plain_settings",
    "register_schema",
    "setting_names",
    "to_config",
]
