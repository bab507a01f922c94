"""Compiled training compared with uncompiled training, and compilers that fail."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from factories import image_samples, write_shard
from tiny_runs import (
    TINY,
    assert_equal,
    compose_config,
    load,
    rows,
    tiny_config,
    tiny_overrides,
)
from torch import Tensor

from vqgan_train.losses.perceptual import LPIPS
from vqgan_train.training.callbacks.compilation import Compilation
from vqgan_train.training.lightning.module import VQGANModule
from vqgan_train.training.setup.networks import build_module
from vqgan_train.training.train import train


@pytest.fixture(autouse=True)
def fresh_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    torch._dynamo.reset()


@pytest.mark.slow
def test_compiled_steps_are_the_written_ones_but_for_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_stance = torch.compiler.set_stance
    # A call that needs a recompilation raises an error...
    monkeypatch.setattr(
        torch.compiler,
        "set_stance",
        lambda stance: set_stance(stance.replace("eager_on_recompile", "fail_on_recompile")),
    )
    (tmp_path / "written").mkdir()
    (tmp_path / "compiled").mkdir()
    settings = ("run.max_steps=3", "run.val_every_steps=100")
    train(tiny_config(tmp_path / "written", *settings))
    # ...so no validation may follow the one before the first step, which runs uncompiled.
    trainer = None
    with monkeypatch.context() as patch:
        patch.setattr(
            "vqgan_train.training.callbacks.metrics_log.LastValidation.on_train_end",
            lambda *_: None,
        )
        trainer = train(tiny_config(tmp_path / "compiled", *settings, "trainer.compile=true"))
    assert trainer is not None
    losses = [
        [float(row["train/loss/total"]) for row in rows(tmp_path / name / "run")[1:4]]
        for name in ("written", "compiled")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.slow
def test_a_compiled_run_resumes_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    for name, stops in (("whole", [4]), ("halves", [2, 4])):
        (tmp_path / name).mkdir()
        for step in stops:
            train(tiny_config(tmp_path / name, "trainer.compile=true", f"run.max_steps={step}"))
    whole, halves = (
        load(tmp_path / name / "run" / "checkpoints" / "last.ckpt") for name in ("whole", "halves")
    )
    for part in ("state_dict", "optimizer_states"):
        assert_equal(halves[part], whole[part])
    assert rows(tmp_path / "halves" / "run") == rows(tmp_path / "whole" / "run")


def test_without_a_compiler_the_run_says_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    walks = 0

    def fails_late(*images: object) -> None:
        nonlocal walks
        walks += 1
        raise RuntimeError("\nno C++ compiler\nhere")

    def compile_all_but_lpips(method: Any, **_: object) -> Any:
        return fails_late if isinstance(method.__self__, LPIPS) else method

    with monkeypatch.context() as patch:
        patch.setattr(torch, "compile", compile_all_but_lpips)
        trainer = train(tiny_config(tmp_path, "trainer.compile=true", "run.max_steps=2"))
    output = capsys.readouterr().out
    assert walks == 1, "after the discriminator has moved its statistics"
    assert "cannot be compiled here (RuntimeError: no C++ compiler)" in output
    (tmp_path / "plain").mkdir()
    plain = train(tiny_config(tmp_path / "plain", "run.max_steps=2"))
    assert trainer is not None
    assert plain is not None
    # The rehearsal had no side effects: weights and statistics equal those of a plain run.
    assert_equal(trainer.lightning_module.state_dict(), plain.lightning_module.state_dict())


def test_rehearsing_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda method, **_: method)
    rehearsed = []
    rehearse = Compilation.on_train_start

    def counted(*arguments: object) -> None:
        rehearsed.append(1)
        rehearse(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Compilation, "on_train_start", counted)
    models = []
    for name, setting in (("plain", "false"), ("rehearsed", "true")):
        (tmp_path / name).mkdir()
        trainer = train(
            tiny_config(
                tmp_path / name,
                f"trainer.compile={setting}",
                "model.architecture.dropout=0.1",
                "run.max_steps=2",
            )
        )
        assert trainer is not None
        models.append(trainer.lightning_module.state_dict())
    assert rehearsed == [1]
    assert_equal(models[1], models[0])


def test_rehearsing_needs_no_other_rank_and_leaves_no_gradient() -> None:
    module = build_module(compose_config(*TINY))

    def wait_for_ranks(gradients: Tensor) -> Tensor:
        raise AssertionError("another rank may have failed")

    module.reduce_gradients = wait_for_ranks
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    module.train().rehearse_step((2, 3, 32, 32))
    assert all(weight.grad is None for weight in module.parameters())
    assert_equal(dict(module.named_buffers()), buffers)


def test_out_of_memory_is_not_taken_for_a_compiler_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def too_large(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: too_large)
    with caplog.at_level(logging.WARNING), pytest.raises(torch.OutOfMemoryError):
        train(tiny_config(tmp_path, "trainer.compile=true"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # Dynamo's own
def test_an_unreadable_image_leaves_a_compiled_run_on_its_compiled_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_overrides(tmp_path)
    samples = image_samples(9)
    samples[3]["png"] = b"no image"
    write_shard(tmp_path / "train.tar", samples)
    calls = [0]
    compiled, step = torch.compile, VQGANModule.training_step

    def counting(graph: Any, _: object) -> Any:
        def call(*arguments: Any) -> Any:
            calls[-1] += 1
            return graph(*arguments)

        return call

    def count_step(module: VQGANModule, batch: dict[str, Any]) -> Any:
        calls.append(0)
        return step(module, batch)

    monkeypatch.setattr(
        torch, "compile", lambda part, **how: compiled(part, **how, backend=counting)
    )
    monkeypatch.setattr(VQGANModule, "training_step", count_step)
    steps = ("run.max_steps=5", "run.val_every_steps=9", "data.max_bad_fraction=0.1")
    train(tiny_config(tmp_path, "trainer.compile=true", *steps))
    assert calls[1] > 0
    assert calls[1:5] == calls[1:2] * 4, "five steps of two images have read each of the nine"
