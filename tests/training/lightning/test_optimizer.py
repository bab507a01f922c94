"""One Adam for both networks, whose settings may differ."""

from pathlib import Path

import pytest
import torch
from tiny_runs import assert_equal, load, rows, tiny_config

from vqgan_train.training.lightning.module import VQGANModule, regroup
from vqgan_train.training.setup.networks import build_module
from vqgan_train.training.train import train

OWN = ("optim.discriminator_betas=[0.9,0.99]", "optim.discriminator_learning_rate=2e-3")


def groups_of(folder: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> list[object]:
    monkeypatch.setattr(VQGANModule, "load_frozen_weights", lambda module: None)
    module = build_module(tiny_config(folder, *overrides))
    adam = module.configure_optimizers()
    ids = [{id(p) for p in n.parameters()} for n in (module.generator, module.discriminator)]
    return [
        (
            [name for name, of in zip("gd", ids, strict=True) if of & {id(p) for p in g["params"]}],
            round(g["lr"], 9),
            g["betas"],
        )
        for g in adam.param_groups
    ]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), [(["g", "d"], 1e-3, (0.5, 0.9))]),
        (("optim.discriminator_betas=[0.5,0.9]",), [(["g", "d"], 1e-3, (0.5, 0.9))]),
        (OWN, [(["g"], 1e-3, (0.5, 0.9)), (["d"], 2e-3, (0.9, 0.99))]),
        (
            (*OWN[:1], "optim.learning_rate_scaling=device_batch"),
            [(["g"], 2e-3, (0.5, 0.9)), (["d"], 2e-3, (0.9, 0.99))],
        ),
        (
            (*OWN[1:], "optim.learning_rate_scaling=device_batch"),
            [(["g"], 2e-3, (0.5, 0.9)), (["d"], 4e-3, (0.5, 0.9))],
        ),
    ],
)
def test_null_means_as_the_generators(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    overrides: tuple[str, ...],
    expected: list[object],
) -> None:
    assert groups_of(tmp_path, monkeypatch, *overrides) == expected


def test_groups_of_another_run_are_divided_anew() -> None:
    one = [{"lr": 1.0, "params": [0, 1, 2]}]
    two = [{"lr": 1.0, "params": [0, 1]}, {"lr": 1.0, "params": [2]}]
    assert regroup(one, [2, 1]) == two
    assert regroup(two, [3]) == one
    assert regroup(one, [3]) == one


@pytest.mark.slow
def test_settings_of_its_own_act_from_a_parents_checkpoint_on(tmp_path: Path) -> None:
    """A part with two groups continues one with a single group, and resumes bit by bit."""
    train(tiny_config(tmp_path, "run.max_steps=2"))
    part1 = tmp_path / "run" / "checkpoints" / "last.ckpt"
    ends = []
    for name, stops in (("same", (4,)), ("whole", (4,)), ("halves", (3, 4))):
        out = f"run.output_dir={tmp_path / name}"
        own = () if name == "same" else OWN
        for stop in stops:
            train(tiny_config(tmp_path, out, f"run.parent={part1}", f"run.max_steps={stop}", *own))
        ends.append(load(tmp_path / name / "checkpoints" / "last.ckpt"))
    same, whole, halves = ends
    for part in ("state_dict", "optimizer_states"):
        assert_equal(halves[part], whole[part])
    assert [g["lr"] for g in whole["optimizer_states"][0]["param_groups"]] == [1e-3, 2e-3]
    # Both make the same first step of the generator: the discriminator's new rate acts after it.
    first = [
        row["train/loss/total"]
        for name in ("same", "whole")
        for row in rows(tmp_path / name)
        if row["step"] == "3"
    ]
    assert float(first[0]) == float(first[1])
    assert not torch.equal(
        *(c["state_dict"]["loss.discriminator.main.0.weight"] for c in (same, whole))
    )
