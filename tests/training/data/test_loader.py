import subprocess
import sys

HELD_LOADER = """
import torch
from torch.utils.data import DataLoader
from vqgan_train.training.data.loader import _ignore_first_signals

loader = DataLoader(torch.zeros(64, 3), num_workers=2, worker_init_fn=_ignore_first_signals)
held = iter(loader)
next(held)
raise RuntimeError("an error of the run")
"""


def test_a_process_that_fails_does_not_wait_for_its_loader() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", HELD_LOADER],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 1
    assert "an error of the run" in ended.stderr
