"""img2dataset: an environment of its own, the call, and a look at what it left.

It pins webdataset below 0.3, so it cannot live in the environment that trains.
"""

import json
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vqgan_train.system.errors import PreparationError
from vqgan_train.system.files import cache_folder, cache_lock

VERSION = "1.47.0"
REQUIREMENT = f"img2dataset=={VERSION}"
FIRST_PYTHON_WITHOUT_IMGHDR = (3, 13)
"""img2dataset 1.47.0 imports imghdr, which Python 3.13 no longer has."""

JPEG_QUALITY = 95


@dataclass(frozen=True, kw_only=True, slots=True)
class Download:
    """How to download."""

    shorter_side: int | None
    """Larger images are scaled down to this many pixels. None: all keep their size."""

    samples_per_shard: int
    """Links a shard, so samples at most."""

    processes: int
    threads: int
    """Downloads at once in each process."""

    timeout_seconds: int
    retries: int

    def options(self, lists: Path, shards: Path) -> list[str]:
        """The command line, without the program.

        What is no JPEG, has an alpha channel or is scaled becomes a JPEG; other bytes stay as
        they are. No crop: the training transform crops, and a larger image loses nothing by it.
        EXIF is not copied into the json: it has places and names.
        """
        size = "no" if self.shorter_side is None else "keep_ratio"
        options: dict[str, object] = {
            "url_list": lists.resolve(),
            "input_format": "jsonl",
            "url_col": "url",
            "caption_col": "caption",
            "output_folder": shards.resolve(),
            "output_format": "webdataset",
            "number_sample_per_shard": self.samples_per_shard,
            "resize_mode": size,
            "image_size": self.shorter_side or 256,
            "resize_only_if_bigger": True,
            "skip_reencode": True,
            "encode_format": "jpg",
            "encode_quality": JPEG_QUALITY,
            "extract_exif": False,
            "processes_count": self.processes,
            "thread_count": self.threads,
            "timeout": self.timeout_seconds,
            "retries": self.retries,
            "enable_wandb": False,
        }
        return [f"--{name}={value}" for name, value in options.items()]


@dataclass(frozen=True, slots=True)
class DownloadReport:
    """What img2dataset says became of the links."""

    links: int
    downloaded: int
    reasons: Counter[str]
    """Why the others failed; none of them ends the download."""

    seconds: float
    """Time that the shards took, summed."""


def prepare_environment(folder: Path | None) -> Path:
    """Find or make the environment that has img2dataset.

    Args:
        folder: a virtual environment. None: one in the cache, made by the first that needs it.

    Returns:
        Its img2dataset program.

    Raises:
        PreparationError: it has none, or none can be installed.
    """
    if folder is not None:
        program = _program(folder)
        if not program.exists():
            raise PreparationError(
                f"{folder} has no img2dataset. Make it: python3 -m venv {folder} && "
                f"{folder}/bin/pip install {REQUIREMENT}"
            )
        return program
    made = cache_folder(f"img2dataset-{VERSION}")
    with cache_lock("img2dataset"):
        if not (made / "ready").exists():
            _require_old_python()
            _run([sys.executable, "-m", "venv", "--clear", str(made)])
            _run([str(_program(made).with_name("pip")), "install", "-q", REQUIREMENT])
            (made / "ready").touch()
    return _program(made)


def _program(environment: Path) -> Path:
    return environment / "bin" / "img2dataset"


def _require_old_python() -> None:
    if sys.version_info >= FIRST_PYTHON_WITHOUT_IMGHDR:
        raise PreparationError(
            f"{REQUIREMENT} needs Python 3.12 or older; this is {sys.version.split()[0]}. Make an "
            "environment with an older one, install it there, and set environment=FOLDER."
        )


def _run(command: Sequence[str]) -> None:
    finished = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if finished.returncode:
        raise PreparationError(
            f"{' '.join(command)} failed:\n{finished.stdout.strip()[-1000:]}\n"
            f"An environment that has {REQUIREMENT} can be named with environment=FOLDER."
        )


def run_img2dataset(program: Path, lists: Path, shards: Path, download: Download) -> None:
    """Download lists into shards; those that are finished from before are kept.

    Raises:
        PreparationError: img2dataset failed.
    """
    shards.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "NO_ALBUMENTATIONS_UPDATE": "1",  # else it asks a server for its newest version
        "PYTHONPATH": "",  # our packages are not its own
    }
    command = [str(program), *download.options(lists, shards)]
    finished = subprocess.run(command, env=environment)
    if finished.returncode:
        raise PreparationError(
            f"img2dataset ended with exit code {finished.returncode}; what it said is above. "
            "The same command goes on with what is missing."
        )


def read_report(
    shards: Path, links_a_list: Sequence[int], samples_per_shard: int
) -> DownloadReport:
    """Sum up the _stats.json of all shards. img2dataset ends well even if whole shards failed.

    Args:
        shards: the folder.
        links_a_list: how many links each list has; a shard never has links of two lists.
        samples_per_shard: links a shard.

    Raises:
        PreparationError: a shard has none: it was not finished.
    """
    expected = sum(math.ceil(links / samples_per_shard) for links in links_a_list)
    missing = [n for n in range(expected) if not (shards / f"{n:05d}_stats.json").exists()]
    if missing:
        raise PreparationError(
            f"{len(missing)} of {expected} shards in {shards} are not finished, the first is "
            f"{missing[0]:05d}. The same command goes on with them."
        )
    links, downloaded, seconds = 0, 0, 0.0
    reasons: Counter[str] = Counter()
    for number in range(expected):
        stats = json.loads((shards / f"{number:05d}_stats.json").read_text())
        statuses = Counter(stats["status_dict"])
        statuses.pop("success", None)
        # What raised inside of img2dataset is in its log only.
        statuses["lost inside img2dataset"] = stats["count"] - stats["successes"] - statuses.total()
        reasons += statuses
        links += stats["count"]
        downloaded += stats["successes"]
        seconds += stats["duration"]
    return DownloadReport(links, downloaded, reasons, seconds)


def remove_empty_shards(shards: Path) -> int:
    """Remove the shards of which every link failed: training takes a tar of nothing for damage.

    img2dataset does not make them again: it looks for the _stats.json only.

    Returns:
        How many there were, those removed by an earlier run included.
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


def require_enough(report: DownloadReport, fraction: float) -> None:
    """Refuse a download that failed for a reason of ours.

    Raises:
        PreparationError: less than a fraction of the links could be had.
    """
    if report.downloaded < fraction * report.links:
        reasons = ", ".join(f"{count} x {why}" for why, count in report.reasons.most_common(3))
        raise PreparationError(
            f"Only {report.downloaded} of {report.links} images could be had, fewer than "
            f"min_success_fraction={fraction:g}: {reasons}. Names that cannot be resolved mean "
            "that the name server is overrun: run one on this machine, or lower threads. "
            "img2dataset keeps failed links as failed: begin again with another output, or lower "
            "min_success_fraction."
        )
