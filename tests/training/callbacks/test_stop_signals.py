"""Graceful stops: all ranks save at the next step and exit; the same command resumes there."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback
from tiny_runs import assert_equal, load, rows, tiny_config, tiny_overrides, wait_until, write_shard
from torch import Tensor

from vqgan_train.system.exit_codes import STOP_SIGNALS, TIME_IS_UP
from vqgan_train.training.callbacks import stop_signals
from vqgan_train.training.callbacks.progress import Progress
from vqgan_train.training.lightning.module import VQGANModule
from vqgan_train.training.train import train

pytestmark = pytest.mark.usefixtures("quick_lpips")

RARELY = ("run.checkpoint_every_steps=100", "run.val_every_steps=100")


@pytest.fixture
def signal_at(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Function that makes training send this process a signal at the end of batch `batch_idx`."""

    def tell(batch_idx: int, number: int) -> None:
        start = Progress.on_train_batch_end

        def send(self: Callback, *arguments: Any) -> None:
            if arguments[-1] == batch_idx:
                os.kill(os.getpid(), number)
            start(self, *arguments)

        monkeypatch.setattr(Progress, "on_train_batch_end", send)

    return tell


@pytest.mark.parametrize(("number", "batches"), [(signal.SIGTERM, 1), (signal.SIGUSR1, 2)])
def test_the_state_is_saved_at_the_next_step_and_the_run_goes_on_there(
    tmp_path: Path, signal_at: Any, monkeypatch: pytest.MonkeyPatch, number: int, batches: int
) -> None:
    whole, cut = (tmp_path / name for name in ("whole", "cut"))
    for folder in (whole, cut):
        folder.mkdir()
    every = (*RARELY, f"optim.accumulate_batches={batches}", "run.max_steps=3")
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    train(tiny_config(whole, *every))
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before
    with monkeypatch.context():
        signal_at(2 * (batches - 1), number)  # with two batches a step, in the middle of the second
        with pytest.raises(SystemExit) as ended:
            train(tiny_config(cut, *every))
        assert ended.value.code == 128 + number
        assert [signal.getsignal(number) for number in STOP_SIGNALS] == before
        monkeypatch.undo()
    assert load(cut / "run" / "checkpoints" / "last.ckpt")["global_step"] == batches
    train(tiny_config(cut, *every))
    left, right = (load(folder / "run" / "checkpoints" / "last.ckpt") for folder in (whole, cut))
    for part in ("state_dict", "optimizer_states", "global_step"):
        assert_equal(left[part], right[part])
    assert rows(whole / "run") == rows(cut / "run")


def test_a_run_whose_time_is_up_saves_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ages = iter([0.0, 1.0, 3599.0, 3600.0])  # at the first step's start, the second's, ...
    monkeypatch.setattr(stop_signals, "process_seconds", lambda: next(ages))
    with pytest.raises(SystemExit) as ended:
        train(tiny_config(tmp_path, *RARELY, "run.max_hours=1"))
    assert ended.value.code == TIME_IS_UP
    assert load(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 3
    assert (tmp_path / "run" / "stopped").read_text() == "run.max_hours=1.0, step 3\n"
    monkeypatch.undo()
    train(tiny_config(tmp_path, *RARELY))
    assert len(rows(tmp_path / "run")) == 5
    assert not (tmp_path / "run" / "stopped").exists()


@pytest.mark.skipif(shutil.which("ps") is None, reason="needs ps, to compare with")
def test_a_process_knows_its_age() -> None:
    before = stop_signals.process_seconds()
    ps = ["ps", "-o", "etimes=", "-p", str(os.getpid())]
    age = int(subprocess.run(ps, capture_output=True, text=True, check=True).stdout)
    assert before - 2 <= age <= stop_signals.process_seconds() + 2


def test_submitit_is_told_by_its_signal(tmp_path: Path, signal_at: Any) -> None:
    heard = []
    before = signal.signal(signal.SIGUSR2, lambda number, _frame: heard.append(number))
    try:
        signal_at(0, signal.SIGUSR2)
        with pytest.raises(SystemExit):
            train(tiny_config(tmp_path))
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert heard == [signal.SIGUSR2]
    assert load(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 1


def test_a_signal_before_the_first_step_ends_at_once(tmp_path: Path) -> None:
    stopping = stop_signals.StopSignals(checkpoints=None, max_hours=None)  # type: ignore[arg-type]
    with pytest.raises(SystemExit) as ended:
        stopping._receive(signal.SIGTERM, None)
    assert ended.value.code == 128 + signal.SIGTERM


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    stopping = stop_signals.StopSignals(checkpoints=None, max_hours=None)  # type: ignore[arg-type]
    stopping._saves = True
    stopping._receive(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        stopping._receive(signal.SIGINT, None)


@pytest.mark.parametrize(
    ("own", "others", "expected"),
    [
        (None, 0, 0),
        (None, 128 + signal.SIGUSR1, 138),
        (signal.SIGTERM, 138, 143),
        *((number, 0, 128 + number) for number in STOP_SIGNALS),
    ],
)
def test_a_rank_ends_with_the_highest_code_that_any_rank_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: int | None, others: int, expected: int
) -> None:
    def all_reduce(code: Tensor, operation: Any, group: str, *, async_op: bool) -> Any:
        assert (operation, group) == (torch.distributed.ReduceOp.MAX, "gloo group")
        assert async_op
        return SimpleNamespace(wait=lambda: code.clamp_(min=others))

    monkeypatch.setattr(torch.distributed, "new_group", lambda backend: f"{backend} group")
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    saved: list[int] = []
    last = tmp_path / "checkpoints" / "last.ckpt"
    checkpoints: Any = SimpleNamespace(
        last=last, save_last=lambda trainer: saved.append(trainer.global_step)
    )
    stopping = stop_signals.StopSignals(checkpoints, max_hours=None)
    trainer: Any = SimpleNamespace(world_size=2, accumulate_grad_batches=1, global_step=6)
    stopping.on_train_start(trainer, None)  # type: ignore[arg-type]
    try:
        if own is not None:
            os.kill(os.getpid(), own)
        stopping.on_train_batch_start(trainer, None, None, 0)  # type: ignore[arg-type]
        trainer.global_step += 1  # the vote is read one step later
        with pytest.raises(SystemExit) if expected else nullcontext() as ended:
            stopping.on_train_batch_start(trainer, None, None, 1)  # type: ignore[arg-type]
    finally:
        stopping.on_train_end(trainer, None)  # type: ignore[arg-type]
    assert (ended.value.code if ended else 0) == expected
    assert saved == ([7] if expected else [])


def test_a_signal_in_a_validation_stops_it_and_the_resumed_run_repeats_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice, because the repeated one can be interrupted, too."""
    whole, cut = (tmp_path / name for name in ("whole", "cut"))
    for folder in (whole, cut):
        folder.mkdir()
    every = ("run.checkpoint_every_steps=3", "run.val_every_steps=2", "run.max_steps=5")
    train(tiny_config(whole, *every))
    validate, batches = VQGANModule.validation_step, []

    def send(module: VQGANModule, batch: dict[str, Any]) -> None:
        batches.append(module.global_step)
        if module.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        validate(module, batch)

    with monkeypatch.context() as patch:
        patch.setattr(VQGANModule, "validation_step", send)
        for _ in range(2):
            with pytest.raises(SystemExit) as ended:
                train(tiny_config(cut, *every))
            assert ended.value.code == 128 + signal.SIGTERM
            assert load(cut / "run" / "checkpoints" / "last.ckpt")["global_step"] == 2
    assert batches == [0, 0, 0, 2, 2], "three batches before the first step, and one at each stop"
    train(tiny_config(cut, *every))
    assert rows(cut / "run") == rows(whole / "run")
    for name in ("last.ckpt", "best.ckpt"):
        left, right = (load(folder / "run" / "checkpoints" / name) for folder in (whole, cut))
        for part in ("state_dict", "optimizer_states", "global_step", "callbacks", "bad_samples"):
            assert_equal(left[part], right[part])


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("val_every_steps", [100, 1])
def test_a_signal_to_one_rank_stops_all_at_one_step(
    tmp_path: Path, rank: int, val_every_steps: int
) -> None:
    """With validations of unequal length after each step, most likely within one."""
    tiny_overrides(tmp_path)
    write_shard(tmp_path / "val.tar", 81, seed=1)
    intervals = (*RARELY, f"run.val_every_steps={val_every_steps}", "run.max_steps=100000")
    words = tiny_overrides(tmp_path, *intervals, "trainer.devices=2")
    process = subprocess.Popen(
        [sys.executable, "-m", "vqgan_train", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    output = process.stdout
    assert output is not None
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(output))
    reader.start()
    try:
        wait_until(lambda: process.poll() is not None or has_steps(tmp_path / "run"))
        children = subprocess.run(
            ["pgrep", "-P", str(process.pid), "-f", "vqgan_train"], capture_output=True, text=True
        )
        ranks = [process.pid, *(int(word) for word in children.stdout.split())]
        os.kill(ranks[rank], signal.SIGTERM)
        process.wait(timeout=240)
    finally:
        process.kill()
        reader.join()
        output.close()
    output_text = "".join(lines)
    assert process.returncode == 128 + signal.SIGTERM, output_text
    assert "SIGTERM: the run has saved its state and stops." in output_text
    assert "Traceback" not in output_text, output_text
    reached = load(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"]
    assert reached == len(rows(tmp_path / "run")) - 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_to_the_whole_group_leaves_the_workers_their_last_step(
    tmp_path: Path, number: int
) -> None:
    words = tiny_overrides(tmp_path, *RARELY, "run.max_steps=100000", "data.num_workers=2")
    process = subprocess.Popen(
        [sys.executable, "-m", "vqgan_train", *words],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until(lambda: process.poll() is not None or has_steps(tmp_path / "run"))
        os.killpg(process.pid, number)  # as a terminal and a scheduler do
        process.wait(timeout=240)
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)  # nobody is left
    finally:
        process.kill()
    assert process.returncode == 128 + number
    reached = load(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"]
    assert reached == len(rows(tmp_path / "run")) - 1


def has_steps(run: Path) -> bool:
    return (run / "metrics.csv").exists() and len(rows(run)) > 4
