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
from vqgan_train.config.export import ExportConfig, ExportFormat
from vqgan_train.config.model import (
    ArchitectureConfig,
    DiscriminatorConfig,
    LossConfig,
    ModelConfig,
)
from vqgan_train.config.run import (
    Accelerator,
    Config,
    LearningRateScaling,
    LoggerConfig,
    OptimConfig,
    Precision,
    RunConfig,
    TrainerConfig,
    WandbConfig,
    WandbMode,
)

__all__ = [
    "Accelerator",
    "ArchitectureConfig",
    "Config",
    "ConfigError",
    "DataConfig",
    "DiscriminatorConfig",
    "ExportConfig",
    "ExportFormat",
    "LearningRateScaling",
    "LoggerConfig",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "Precision",
    "RunConfig",
    "Settings",
    "TrainerConfig",
    "WandbConfig",
    "WandbMode",
    "config_dir",
    "plain_settings",
    "register_schema",
    "setting_names",
    "to_config",
]
