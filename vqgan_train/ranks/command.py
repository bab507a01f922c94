"""How another rank of this run is started."""

import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig


def rank_command(folder: Path) -> list[str] | None:
    """The command of this run alone, also where it is one of a sweep; None if there is none.

    Args:
        folder: the run's. What its setting says may depend on the number in the sweep or the time.
    """
    if not HydraConfig.initialized():
        return None
    hydra = HydraConfig.get()
    sources = {source.provider: source.path for source in hydra.runtime.config_sources}
    flags = [f"--config-name={hydra.job.config_name}"]
    if "command-line" in sources:
        flags += [f"--config-dir={sources['command-line']}"]
    others = [one for one in hydra.overrides.task if not one.startswith("run.output_dir=")]
    place = f"run.output_dir={folder}"
    return [sys.executable, "-m", "vqgan_train", *flags, *others, place]
