"""`python -m vqgan_train.check_data`: find damaged shards and images before training."""

import json
import sys
from pathlib import Path

from torch.utils.data import DataLoader
from tqdm import tqdm

from vqgan_train.config.preparation import CheckDataConfig
from vqgan_train.preparation.check.check_report import make_report, to_text
from vqgan_train.preparation.check.findings import Findings
from vqgan_train.preparation.check.shard_check import ShardChecks
from vqgan_train.shards.naming import expand_shards
from vqgan_train.system.errors import UserError
from vqgan_train.system.files import try_writing, write_atomically

PROBLEMS_FOUND = 1
"""Exit code if the shards have problems; 0 if not."""


def check_data(config: CheckDataConfig) -> None:
    """Check shards, print a report and, if configured, write it to a JSON file.

    Raises:
        SystemExit: the shards have problems.
        ShardError: a shard does not exist.
        UserError: `output` is a folder.
        OSError: the report cannot be written.
    """
    output = None if config.output is None else Path(config.output)
    if output is not None:
        require_writable(output)
    checks = ShardChecks(expand_shards(config.shards), config.image_size)
    report = make_report(collect(checks, config.num_workers), config.image_size)
    sys.stdout.write(f"{to_text(report)}\n")
    if output is not None:
        with write_atomically(output) as file:
            file.write(json.dumps(report, indent=2).encode())
    if report["problems"]:
        sys.exit(PROBLEMS_FOUND)


def require_writable(output: Path) -> None:
    """Check before hours of work that the report can be written.

    Raises:
        UserError: `output` is a folder.
        OSError: no file can be written beside it.
    """
    if output.is_dir():
        raise UserError(f"output={output} is a folder. Name a file in it.")
    try_writing(output.parent)


def collect(checks: ShardChecks, num_workers: int) -> Findings:
    """Check all shards in parallel, one shard per process at a time."""
    findings = Findings()
    loader = DataLoader(checks, batch_size=None, num_workers=num_workers)
    for shard in tqdm(loader, "checking", unit="shard"):
        findings.add(shard)
    findings.compare_shards()
    return findings
