"""`python -m vqgan_train.check_data`: look through shards before hours are spent on them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader
from tqdm import tqdm

from vqgan_train.config.preparation import CheckDataConfig, Images
from vqgan_train.preparation.check.check_report import make_report, to_text
from vqgan_train.preparation.check.findings import Findings
from vqgan_train.preparation.check.headers import look_at_header, look_at_pixels
from vqgan_train.preparation.check.shard_check import ShardChecks
from vqgan_train.shards.naming import expand_shards
from vqgan_train.system.errors import PreparationError
from vqgan_train.system.files import write_whole

PROBLEMS_FOUND = 1
"""Exit code, beside command.USER_ERROR and command.INTERRUPTED; 0 if all is well."""


def check_data(config: CheckDataConfig) -> None:
    """Print a report on some shards, and write it down if asked to.

    Raises:
        SystemExit: there are problems.
        ShardError: the shards are not there.
        OSError: the report cannot be written.
    """
    require_writable(config.output)
    look = {Images.headers: look_at_header, Images.decode: look_at_pixels}[config.images]
    checks = ShardChecks(expand_shards(config.shards), look, config.image_size)
    findings = collect(checks, config.num_workers)
    report = make_report(
        findings,
        looked_at=config.images.value,
        image_size=config.image_size,
        ranks=config.ranks,
        batch_size=config.batch_size,
    )
    sys.stdout.write(f"{to_text(report)}\n")
    if config.output is not None:
        with write_whole(Path(config.output)) as file:
            file.write(json.dumps(report, indent=2).encode())
    if report["problems"]:
        sys.exit(PROBLEMS_FOUND)


def require_writable(output: str | None) -> None:
    """Refuse a place for the report before hours are spent.

    Raises:
        PreparationError: there is a folder of that name.
        OSError: nothing can be written there.
    """
    if output is not None:
        if Path(output).is_dir():
            raise PreparationError(f"output={output} is a folder. Name a file in it.")
        with write_whole(Path(f"{output}.probe")):
            pass
        Path(f"{output}.probe").unlink()


def collect(checks: ShardChecks, num_workers: int) -> Findings:
    """Look through all shards, in processes that each take one after the other."""
    findings = Findings()
    loader = DataLoader(checks, batch_size=None, collate_fn=unchanged, num_workers=num_workers)
    for shard in tqdm(loader, "checking", unit="shard"):
        findings.add(shard)
    findings.compare_shards()
    return findings


def unchanged(shard: Any) -> Any:
    """Keep torch from turning arrays into tensors."""
    return shard
