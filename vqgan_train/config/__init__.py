"""All settings: type, meaning, unit and range of each.

Their values are in conf/*.yaml, never here. Every class has `slots=True`, because without it Hydra
silently accepts a misspelt key.
"""

from vqgan_train.config.checks import (
    config_dir,
    plain_settings,
    register_schema,
    setting_names,
    to_config,
)
from vqgan_train.config.data import DataConfig
from vqgan_train.config.evaluation import EvaluateConfig
from vqgan_train.config.export import ExportConfig, ExportFormat
from vqgan_train.config.model import AdaptiveWeightScope
from vqgan_train.config.preparation import LinksConfig, PackConfig, PrepareYfccConfig, SelectConfig
from vqgan_train.config.run import Config, LearningRateScaling, WandbConfig, WandbMode
from vqgan_train.config.tokens import DecodeConfig, EncodeConfig
from vqgan_train.config.trainer import HIGHER_IS_BETTER, MemoryFormat, TrainerConfig

__all__ = [
    "HIGHER_IS_BETTER",
    "AdaptiveWeightScope",
    "Config",
    "DataConfig",
    "DecodeConfig",
    "EncodeConfig",
    "EvaluateConfig",
    "ExportConfig",
    "ExportFormat",
    "LearningRateScaling",
    "LinksConfig",
    "MemoryFormat",
    "PackConfig",
    "PrepareYfccConfig",
    "SelectConfig",
    "TrainerConfig",
    "WandbConfig",
    "WandbMode",
    "config_dir",
    "plain_settings",
    "register_schema",
    "setting_names",
    "to_config",
]
