"""All settings: type, meaning, unit and range of each.

Their values are in conf/*.yaml, never here. Every class has `slots=True`, because without it Hydra
silently accepts a misspelt key.
"""

from vqgan_train.config.checks import (
    Settings,
    config_dir,
    plain_settings,
    register_schema,
    setting_names,
    to_config,
)
from vqgan_train.config.data import DataConfig
from vqgan_train.config.evaluation import EvaluateConfig, EvaluationMetric
from vqgan_train.config.export import ExportConfig, ExportFormat
from vqgan_train.config.model import AdaptiveWeightScope, ArchitectureConfig, DiscriminatorConfig
from vqgan_train.config.preparation import (
    LinksConfig,
    PackConfig,
    PeopleConfig,
    PrepareYfccConfig,
    SelectConfig,
)
from vqgan_train.config.run import Config, LearningRateScaling, WandbConfig, WandbMode
from vqgan_train.config.tokens import (
    DecodeConfig,
    EncodeConfig,
    Interpolation,
    PixelRange,
    TokenFormat,
    TokenPrecision,
)
from vqgan_train.config.trainer import (
    HIGHER_IS_BETTER,
    MemoryFormat,
    TrainerConfig,
    ValidationMetric,
)

__all__ = [
    "HIGHER_IS_BETTER",
    "AdaptiveWeightScope",
    "ArchitectureConfig",
    "Config",
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
