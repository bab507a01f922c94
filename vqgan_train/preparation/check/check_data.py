"""`python -m vqgan_train.check_data`: find damaged shards and images before training."""

import json
import sys
from functools import partial
from pathlib import Path

from tqdm import tqdm

from vqgan_train.config.preparation import CheckDataConfig
from vqgan_train.preparation.check.check_report import make_report, to_text
from vqgan_train.preparation.check.findings import Findings
from vqgan_train.preparation.check.shard_check import check_shard
from vqgan_train.shards.naming import expand_shards
from vqgan_train.system.addresses import redact_all
from vqgan_train.system.errors import UserError
from vqgan_train.system.files import try_writing, write_atomically
from vqgan_train.system.workers import run_tasks

PROBLEMS_FOUND = 1
"""Exit code if the shards have problems; 0 if not."""


def check_data(config: CheckDataConfig) -> None:
    """Check shards, print a report and, if configured, write it to a JSON file.

    Raises:
        SystemExit: the shards have problems; the code is 1.
        UserError: `output` is a folder, or cannot be written.
        ShardError: a shard does not exist, or no shard is named.
    """
    if config.output is not None:
        if Path(config.output).is_dir():
            raise UserError(f"output={config.output} is a folder. Name a file in it.")
        try:
            try_writing(Path(config.output).parent)  # before hours of work
        except OSError as error:
            raise UserError(
                f"output={config.output} cannot be written ({error}). Name another file."
            ) from error
    shards = expand_shards(config.shards)
    check = partial(check_shard, image_size=config.image_size, image_field=config.image_field)
    results = run_tasks(check, shards, num_workers=config.num_workers)
    findings = Findings()
    for shard in tqdm(results, desc="checking", unit="shard", total=len(shards)):
        findings.add(shard)
    findings.compare_shards()
    report = redact_all(make_report(findings, config.image_size))
    sys.stdout.write(f"{to_text(report)}\n")
    if config.output is not None:
        with write_atomically(Path(config.output)) as file:
            file.write(json.dumps(report, indent=2).encode())
    if report["problems"]:
        sys.exit(PROBLEMS_FOUND)
