"""What only a GPU can show. Run with `pytest -m gpu`."""

from pathlib import Path
from typing import Any

import pytest
import torch
from recorded_ranks import train_and_record, train_two_ranks
from tiny_runs import tiny_config, tiny_overrides

from vqgan_train.training.data.loader import CopyStream
from vqgan_train.training.lightning.module import VQGANModule
from vqgan_train.training.train import train

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


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_compiled_run_trains_and_resumes(tmp_path: Path, precision: str) -> None:
    overrides = ("trainer.accelerator=gpu", "trainer.devices=1", "trainer.compile=true")
    for step in (2, 4):
        settings = (*overrides, f"trainer.precision={precision}", f"run.max_steps={step}")
        trainer = train(tiny_config(tmp_path, *settings))
        assert trainer is not None
        assert all(weight.isfinite().all() for weight in trainer.lightning_module.parameters())


def test_no_step_waits_for_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = VQGANModule.training_step

    def watched(*arguments: Any) -> Any:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return step(*arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(VQGANModule, "training_step", watched)
    train(tiny_config(tmp_path, "trainer.accelerator=gpu", "trainer.devices=1"))


def test_a_batch_is_copied_while_the_gpu_computes() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    images = torch.rand(16, 3, 256, 256).pin_memory()
    copies = CopyStream()
    copies.copy(images, device)  # the first one makes stream and memory
    torch.cuda.synchronize()
    torch.cuda._sleep(2_000_000_000)  # about a second
    copied = copies.copy(images, device)
    assert copies.stream is not None
    copies.stream.synchronize()
    assert not torch.cuda.current_stream().query(), "the copy waited for the computation"
    assert torch.equal((copied * 2).cpu(), images * 2)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_ranks_that_share_norms_and_weight_train_as_one_with_all_their_images(
    tmp_path: Path,
) -> None:
    shared = ("trainer.sync_batchnorm=true", "loss.adaptive_weight_scope=mean")
    overrides = tiny_overrides(tmp_path, "trainer.accelerator=gpu", *shared)
    (two,) = train_two_ranks(tmp_path, overrides)
    alone = ("trainer.devices=1", "data.batch_size=4", f"run.output_dir={tmp_path / 'one'}")
    one = train_and_record(tiny_overrides(tmp_path, "trainer.accelerator=gpu", *shared, *alone))
    for name, weight in one["end"].items():
        for rank in two:
            expected = weight.cpu()
            torch.testing.assert_close(rank["end"][name], expected, rtol=1e-2, atol=1e-3, msg=name)
