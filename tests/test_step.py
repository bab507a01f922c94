"""Waits for the device, memory layouts and recomputation: cost and equal results of a step."""

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from factories import tiny_vqgan
from tiny_runs import assert_equal, compose_config, load, tiny_config
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vqgan_train.models import recompute_activations
from vqgan_train.system.devices import require_precision
from vqgan_train.system.errors import UserError
from vqgan_train.training.setup.networks import build_module
from vqgan_train.training.train import train

LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


LEAVES_THE_DEVICE = {
    f"aten::{name}"
    for name in (
        "_local_scalar_dense",
        "equal",
        "masked_select",
        "nonzero",
        "_unique2",
        "unique_consecutive",
        "unique_dim",
    )
}
"""Operations that need a value on the host: a GPU would have to be waited for."""


class HostReads(TorchDispatchMode):
    """Counts the operations of `LEAVES_THE_DEVICE`."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func._schema.name in LEAVES_THE_DEVICE
        return func(*args, **(kwargs or {}))


def test_no_step_waits_for_a_number(tmp_path: Path) -> None:
    rare = [f"run.{what}_every_steps=100" for what in ("log", "val", "checkpoint")]
    counts = []
    for steps in (2, 4):
        (tmp_path / str(steps)).mkdir()
        with HostReads() as reads:
            train(tiny_config(tmp_path / str(steps), *rare, f"run.max_steps={steps}"))
        counts.append(reads.count)
    assert counts[0] > 0, "validation and checkpoints do read numbers"
    assert counts[1] == counts[0]


def test_activations_computed_again_give_the_same_gradients() -> None:
    plain = tiny_vqgan(dropout=0.1).train()
    sparing = copy.deepcopy(plain)
    recompute_activations(sparing)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    kept = []
    for model in (plain, sparing):
        storages: dict[int, int] = {}

        def note(tensor: Tensor, storages: dict[int, int] = storages) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        torch.manual_seed(0)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = model(images).reconstruction.square().mean()
        kept.append(sum(storages.values()))
        loss.backward()
    assert_equal(
        {name: p.grad for name, p in sparing.named_parameters()},
        {name: p.grad for name, p in plain.named_parameters()},
    )
    assert kept[1] < kept[0] / 2


def test_a_run_that_recomputes_is_the_same_run(tmp_path: Path) -> None:
    for setting in ("false", "true"):
        (tmp_path / setting).mkdir()
        recompute = f"trainer.recompute_activations={setting}"
        train(tiny_config(tmp_path / setting, recompute, "run.max_steps=2"))
    plain, sparing = (
        load(tmp_path / setting / "run" / "checkpoints" / "last.ckpt")["state_dict"]
        for setting in ("false", "true")
    )
    assert_equal(sparing, plain)


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_weights_lie_as_asked_for_and_are_written_contiguous(tmp_path: Path, layout: str) -> None:
    config = tiny_config(tmp_path, f"trainer.memory_format={layout}")
    module = build_module(config)
    weight = module.generator.encoder.levels[0].blocks[0].conv1.weight
    assert weight.is_contiguous(memory_format=LAYOUTS[layout])
    assert module.objective.lpips.convolutions[3].weight.is_contiguous(
        memory_format=LAYOUTS[layout]
    )
    train(config)
    written = load(tmp_path / "run" / "checkpoints" / "last.ckpt")["state_dict"]
    assert all(weight.is_contiguous() for weight in written.values())


def test_a_run_may_go_on_in_the_other_layout(tmp_path: Path) -> None:
    # Without on_train_start the fused Adam pairs weights with wrong moments, without an error.
    weights = []
    for second in LAYOUTS:
        folder = tmp_path / second
        folder.mkdir()
        slow = "optim.learning_rate=1e-4"  # at larger ones, rounding alone soon shows
        train(tiny_config(folder, slow, "run.max_steps=2", "trainer.memory_format=contiguous"))
        train(tiny_config(folder, slow, "run.max_steps=4", f"trainer.memory_format={second}"))
        weights.append(load(folder / "run" / "checkpoints" / "last.ckpt")["state_dict"])
    # Where a gradient is nearly 0, Adam turns rounding into full steps, so the mean is compared.
    trained = [name for name, weight in weights[0].items() if weight.dim() == 4]
    assert trained
    moved = [(weights[0][name] - weights[1][name]).abs().mean().item() for name in trained]
    assert max(moved) < 2e-5


@pytest.mark.parametrize(
    ("asked", "emulated", "fails"),
    [("bf16", True, True), ("bf16", False, False), ("fp16", True, False)],
)
def test_a_gpu_that_only_emulates_bf16_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, emulated: bool, fails: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "an old GPU")
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda *, including_emulation: not emulated
    )
    precision = compose_config(f"trainer.precision={asked}").trainer.precision.value
    with pytest.raises(UserError, match="an old GPU") if fails else nullcontext():
        require_precision("auto", precision)
    require_precision("cpu", precision)
