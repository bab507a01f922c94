"""What only a GPU can show. Run with `pytest -m gpu`."""

from pathlib import Path

import pytest
import torch
from tiny_runs import tiny_config

from vqgan_train.train import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_trains_validates_draws_and_resumes(tmp_path: Path, precision: str) -> None:
    overrides = ("trainer.accelerator=gpu", "trainer.devices=1", f"trainer.precision={precision}")
    train(tiny_config(tmp_path, *overrides, "run.max_steps=2"))
    trainer = train(tiny_config(tmp_path, *overrides))
    assert trainer is not None
    assert trainer.global_step == 4
    assert all(weight.isfinite().all() for weight in trainer.lightning_module.parameters())
    assert (tmp_path / "run" / "images" / "step_000004.png").exists()
