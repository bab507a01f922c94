"""How another rank of this run is started."""

import sys

from hydra.core.hydra_config import HydraConfig


def rank_command() -> list[str] | None:
    """The command of this run alone, also where it is one of a sweep; None if there is none."""
    if not HydraConfig.initialized():
        return None
    hydra = HydraConfig.get()
    sources = {source.provider: source.path for source in hydra.runtime.config_sources}
    flags = [f"--config-name={hydra.job.config_name}"]
    if "command-line" in sources:
        flags += [f"--config-dir={sources['command-line']}"]
    return [sys.executable, "-m", "vqgan_train", *flags, *hydra.overrides.task]
