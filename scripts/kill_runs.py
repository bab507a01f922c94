"""Kill training runs at random moments and check that nothing is lost.

    python scripts/kill_runs.py --kills 200 --publish

Small runs that save at every step are killed with SIGKILL and restarted with the same settings
until they end. Checks that every checkpoint loads after each kill, that no partial file is left at
the end, and that the final weights, optimizer, data position and metrics equal those of an
undisturbed run bit for bit. TMPDIR is on another file system than the runs. Runs are forked from
this process, so that a start takes one second instead of ten.
"""

import csv
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from command_line import Parser, count
from hydra import compose, initialize_config_dir
from pages import ROOT, machine, put, table, write_json

from vqgan_train.checkpoint.reading import read_checkpoint
from vqgan_train.config.checks import config_dir, register_schema, to_config
from vqgan_train.config.run import Config
from vqgan_train.system.errors import CheckpointError
from vqgan_train.training.train import train

STEPS = 24
LONGEST_LIFE_SECONDS = 4.0
OTHER_FILE_SYSTEM = Path("/dev/shm")
PAGE = ROOT / "docs" / "faults.md"
RESULTS = ROOT / "docs" / "benchmarks" / "kills.json"
BY_THE_CLOCK = (
    "train/images_per_second",
    "train/step_seconds",
    "train/data_seconds",
    "val/seconds",
)

SMALL = (
    "data.image_size=16",
    "data.resize=20",
    "data.batch_size=2",
    "model.architecture.channel_multipliers=[1,1]",
    "model.architecture.latent_channels=8",
    "model.architecture.codebook_size=32",
    "model.discriminator.channels=8",
    "loss=vqgan",
    "loss.discriminator_warmup_steps=0",
    f"run.max_steps={STEPS}",
    "run.checkpoint_every_steps=1",
    "run.val_every_steps=5",
    "run.log_every_steps=1",
    "run.num_pictures=1",
    "trainer.accelerator=cpu",
)
CASES = {
    "one process": ((), 1),
    "2 loader workers": (("data.num_workers=2",), 1),
    "2 batches a step": (("optim.accumulate_batches=2",), 1),
    "2 ranks": (("trainer.devices=2",), 2),
}
"""Settings and number of ranks of each case."""


def main() -> None:
    """Kill runs and write the results; exit with an error if something was lost."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--kills", type=count, default=200, metavar="N", help="kills in all cases (default: 200)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the moments (default: 0)"
    )
    parser.add_argument(
        "--publish",
        action="store_true",
        help="write docs/benchmarks/kills.json and the table in docs/faults.md",
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TMPDIR"] = str(OTHER_FILE_SYSTEM)
        results = kill_runs(Path(folder), arguments.kills, random.Random(arguments.seed))
    print(json.dumps(results, indent=2))
    if arguments.publish:
        write_json(RESULTS, results)
        put(PAGE, "kills", to_table(results))
    if any(case["lost"] for case in results["cases"].values()):
        sys.exit("Something was lost.")


def kill_runs(folder: Path, kills: int, chance: random.Random) -> dict[str, Any]:
    """Divide the kills among the cases.

    Returns:
        Machine and results, as written to kills.json: for each case the number of kills, the
        number of kills while a file was being written, and `lost`, a list of error messages.
    """
    cases = {
        name: _kill_case(folder / name.replace(" ", "_"), name, -(-kills // len(CASES)), chance)
        for name in CASES
    }
    return {"machine": machine(["torch", "pytorch-lightning"]), "steps": STEPS, "cases": cases}


def to_table(results: dict[str, Any]) -> str:
    """Format the results as a Markdown table with a row per case."""
    rows = [
        (
            name,
            case["kills"],
            case["half_written"],
            case["before_the_first_checkpoint"],
            len(case["lost"]),
        )
        for name, case in results["cases"].items()
    ]
    head = ("", "kills", "while a file was written", "before the first checkpoint", "lost")
    total = ("**together**", *(sum(column) for column in list(zip(*rows, strict=True))[1:]))
    return table(head, [*rows, total])


def _kill_case(folder: Path, name: str, kills: int, chance: random.Random) -> dict[str, Any]:
    undisturbed = folder / "undisturbed"
    _wait(_start(name, undisturbed))
    counts = {"kills": 0, "half_written": 0, "before_the_first_checkpoint": 0, "runs": 0}
    lost: list[str] = []
    while counts["kills"] < kills:
        run = folder / f"run{counts['runs']}"
        counts["runs"] += 1
        while counts["kills"] < kills:
            leader = _start(name, run)
            time.sleep(chance.uniform(0.2, LONGEST_LIFE_SECONDS))
            if not _kill(leader):
                break  # the run had ended
            counts["kills"] += 1
            counts["half_written"] += bool(list(run.rglob("*.partial")))
            counts["before_the_first_checkpoint"] += not _has_checkpoint(run)
            lost += _unreadable(run)
        _wait(_start(name, run))
        lost += _differences(run, undisturbed)
        lost += [f"{file} was left behind" for file in run.rglob("*.partial")]
    return {**counts, "lost": lost}


def _start(name: str, folder: Path) -> int:
    """Fork a process that trains and leads a process group with its ranks and workers."""
    leader = os.fork()
    if leader == 0:
        os.setsid()
        _silence(folder.with_suffix(".log"))
        overrides, ranks = CASES[name]
        _train_ranks(_config(folder, overrides), ranks)
    return leader


def _train_ranks(config: Config, ranks: int) -> None:
    """Fork the other ranks, train as one of them, and exit."""
    rank = 0
    if ranks > 1:
        os.environ |= {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(20_000 + os.getpid() % 20_000),
        }
        os.environ |= {"WORLD_SIZE": str(ranks), "NODE_RANK": "0"}
        rank = next((r for r in range(1, ranks) if os.fork() == 0), 0)
        os.environ["LOCAL_RANK"] = str(rank)
        from pytorch_lightning.utilities import rank_zero_only

        rank_zero_only.rank = rank
    code = 1
    try:
        train(config)
        code = 0
    finally:
        sys.stdout.flush()
        os._exit(code)


def _config(folder: Path, overrides: Sequence[str]) -> Config:
    register_schema(Config)
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        words = [*SMALL, *overrides, f"run.output_dir={folder}"]
        return to_config(compose("train", overrides=words), Config)


def _silence(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)


def _kill(leader: int) -> bool:
    """Kill a process and its group; return whether it was still alive."""
    ended, _ = os.waitpid(leader, os.WNOHANG)
    if ended:
        return False
    os.killpg(leader, signal.SIGKILL)
    os.waitpid(leader, 0)
    return True


def _wait(leader: int) -> None:
    """Wait for a run; exit with an error if it failed."""
    _, status = os.waitpid(leader, 0)
    if status != 0:
        sys.exit(f"A run ended with status {status}; its log lies beside its folder.")


def _has_checkpoint(run: Path) -> bool:
    return bool(list(run.glob("checkpoints/*.ckpt")))


def _unreadable(run: Path) -> list[str]:
    found = []
    for file in run.glob("checkpoints/*.ckpt"):
        try:
            read_checkpoint(file)
        except CheckpointError as error:
            found.append(str(error))
    return found


def _differences(run: Path, undisturbed: Path) -> list[str]:
    """List the differences between the final files of a run and of the undisturbed run."""
    found = []
    for name in ("last.ckpt", "best.ckpt"):
        ended, expected = (
            torch.load(folder / "checkpoints" / name, weights_only=True)
            for folder in (run, undisturbed)
        )
        for part in ("state_dict", "optimizer_states", "ShardDataModule", "global_step"):
            if not _equal(ended[part], expected[part]):
                found.append(f"{part} of {run.name}/{name} differs")
    if _rows(run) != _rows(undisturbed):
        found.append(f"metrics of {run.name} differ")
    return found


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_equal(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(_equal, left, right))
    return bool(left == right)


def _rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in BY_THE_CLOCK} for row in rows]


if __name__ == "__main__":
    main()
