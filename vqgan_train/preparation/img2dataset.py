"""Run img2dataset in a virtual environment of its own, and report on its results.

It needs webdataset below 0.3, so it cannot be installed in the environment that trains.
"""

import json
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vqgan_train.system.errors import UserError
from vqgan_train.system.files import cache_folder, cache_lock

VERSION = "1.47.0"
REQUIREMENT = f"img2dataset=={VERSION}"
FIRST_PYTHON_WITHOUT_IMGHDR = (3, 13)
"""img2dataset 1.47.0 imports imghdr, which Python 3.13 removed."""


@dataclass(frozen=True, slots=True)
class DownloadReport:
    """Results of a download, summed over all shards."""

    links: int
    downloaded: int
    reasons: Counter[str]
    """Number of failed links by error message."""


def prepare_environment(folder: Path | None) -> Path:
    """Find or create the virtual environment that contains img2dataset.

    Args:
        folder: a virtual environment. None: the one in the cache, which is created if missing.

    Returns:
        The environment's img2dataset program.

    Raises:
        UserError: `folder` has no img2dataset, or img2dataset cannot be installed in the cache.
    """
    if folder is not None:
        program = _program(folder)
        if not program.exists():
            raise UserError(
                f"environment={folder} has no img2dataset. Install it: python3 -m venv {folder} && "
                f"{folder}/bin/pip install {REQUIREMENT}"
            )
        return program
    environment = cache_folder(f"img2dataset-{VERSION}")
    with cache_lock("img2dataset"):
        if not (environment / "ready").exists():
            if sys.version_info >= FIRST_PYTHON_WITHOUT_IMGHDR:
                raise UserError(
                    f"{REQUIREMENT} needs Python 3.12 or older; this is {sys.version.split()[0]}. "
                    "Install it in an environment of an older Python; set environment=FOLDER."
                )
            _run([sys.executable, "-m", "venv", "--clear", str(environment)])
            pip = _program(environment).with_name("pip")
            _run([str(pip), "install", "-q", REQUIREMENT])
            (environment / "ready").touch()
    return _program(environment)


def _program(environment: Path) -> Path:
    return environment / "bin" / "img2dataset"


def _run(command: Sequence[str]) -> None:
    finished = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if finished.returncode:
        raise UserError(
            f"{' '.join(command)} failed:\n{finished.stdout.strip()[-1000:]}\n"
            f"If you have an environment with {REQUIREMENT}, give it as environment=FOLDER."
        )


def run_img2dataset(program: Path, options: Mapping[str, object]) -> None:
    """Run img2dataset with command-line options; it keeps the finished shards of earlier runs.

    Raises:
        UserError: img2dataset failed.
    """
    environment = {
        **os.environ,
        "NO_ALBUMENTATIONS_UPDATE": "1",  # otherwise it asks a server for its newest version
        "PYTHONPATH": "",  # otherwise it may import packages of our environment
    }
    command = [str(program), *(f"--{name}={value}" for name, value in options.items())]
    finished = subprocess.run(command, env=environment)
    if finished.returncode:
        raise UserError(
            f"img2dataset failed with exit code {finished.returncode}; its output is above. Run "
            "the same command again to resume."
        )


def read_report(
    shards: Path, links_per_list: Sequence[int], samples_per_shard: int
) -> DownloadReport:
    """Sum up the _stats.json files of all shards.

    Args:
        shards: folder of the shards.
        links_per_list: number of links in each list; no shard has links of two lists.
        samples_per_shard: links per shard.

    Raises:
        UserError: a shard has no _stats.json, so it is unfinished. img2dataset exits with 0 even
            if whole shards failed.
    """
    expected = sum(math.ceil(links / samples_per_shard) for links in links_per_list)
    missing = [n for n in range(expected) if not (shards / f"{n:05d}_stats.json").exists()]
    if missing:
        raise UserError(
            f"{len(missing)} of {expected} shards in {shards} are not finished; the first is "
            f"{missing[0]:05d}. Run the same command again to resume."
        )
    links, downloaded = 0, 0
    reasons: Counter[str] = Counter()
    for number in range(expected):
        stats = json.loads((shards / f"{number:05d}_stats.json").read_text())
        statuses = Counter(stats["status_dict"])
        statuses.pop("success", None)
        # Links that raised an exception in img2dataset have no status; its log has the exception.
        statuses["lost inside img2dataset"] = stats["count"] - stats["successes"] - statuses.total()
        reasons += statuses
        links += stats["count"]
        downloaded += stats["successes"]
    return DownloadReport(links, downloaded, reasons)


def remove_empty_shards(shards: Path) -> int:
    """Remove shards without any image, because training takes an empty tar for a damaged one.

    Their _stats.json files stay, so img2dataset does not download them again.

    Returns:
        The number of such shards, including those that an earlier run removed.
    """
    empty = [
        stats
        for stats in shards.glob("*_stats.json")
        if json.loads(stats.read_text())["successes"] == 0
    ]
    for stats in empty:
        tar = stats.with_name(f"{stats.name.removesuffix('_stats.json')}.tar")
        tar.unlink(missing_ok=True)
    return len(empty)


def require_min_success(report: DownloadReport, min_fraction: float) -> None:
    """Check that at least a fraction of the links gave an image.

    Raises:
        UserError: fewer did, so the network of this machine is probably at fault.
    """
    if report.downloaded < min_fraction * report.links:
        reasons = ", ".join(f"{count} x {why}" for why, count in report.reasons.most_common(3))
        raise UserError(
            f"Only {report.downloaded} of {report.links} images were downloaded, fewer than "
            f"min_success_fraction={min_fraction:g}: {reasons}. If names could not be resolved, "
            "the name server is probably overloaded: run one on this machine, or lower threads. "
            "img2dataset never retries links that failed: start again with another output, or "
            "lower min_success_fraction."
        )
