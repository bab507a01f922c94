"""Steps with NaN or infinite losses or gradients: they are skipped, and too many stop the run."""

import math
from collections.abc import Callable, Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_runs import assert_equal, load, rows, tiny_config

from vqgan_train.losses.objective import Objective, StepTerms
from vqgan_train.system.errors import UserError
from vqgan_train.training.callbacks.non_finite import SkipNonFinite
from vqgan_train.training.train import train

EACH = ("run.checkpoint_every_steps=1", "run.val_every_steps=9")


def nan_loss(terms: StepTerms) -> StepTerms:
    return terms._replace(perceptual=terms.perceptual * torch.nan)


def infinite_gradient(terms: StepTerms) -> StepTerms:
    return terms._replace(backward=terms.backward * torch.inf)


@pytest.fixture
def break_steps(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Function that changes the losses of some training steps, counted from 1, by `how`."""

    def broken(steps: Collection[int], how: Callable[[StepTerms], StepTerms]) -> None:
        forward, calls = Objective.forward, 0

        def wrong(self: Objective, *arguments: Any, **options: Any) -> StepTerms:
            nonlocal calls
            calls += 1
            terms = forward(self, *arguments, **options)
            return how(terms) if calls in steps else terms

        monkeypatch.setattr(Objective, "forward", wrong)

    return broken


@pytest.mark.parametrize("how", [nan_loss, infinite_gradient])
def test_a_bad_step_leaves_everything_as_it_was(
    tmp_path: Path, break_steps: Callable[..., None], how: Callable[[StepTerms], StepTerms]
) -> None:
    train(tiny_config(tmp_path, *EACH, "run.max_steps=2"))
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    before = load(last)
    break_steps({1}, how)
    train(tiny_config(tmp_path, *EACH, "run.max_steps=3"))
    after = load(last)
    assert_equal(before["state_dict"], after["state_dict"])
    assert_equal(before["optimizer_states"], after["optimizer_states"])
    assert after["global_step"] == 3, "the clock goes on"
    assert after["ShardDataModule"]["position"] == 6, "and so does the data"
    assert float(rows(tmp_path / "run")[-1]["train/skipped_steps"]) == 1


def test_what_comes_after_a_bad_step_is_trained_on(
    tmp_path: Path, break_steps: Callable[..., None]
) -> None:
    break_steps({2}, nan_loss)
    trainer = train(tiny_config(tmp_path, "run.max_steps=4", "run.val_every_steps=9"))
    assert trainer is not None
    assert all(weight.isfinite().all() for weight in trainer.lightning_module.state_dict().values())
    table = rows(tmp_path / "run")[1:]
    assert [float(row["train/skipped_steps"]) for row in table] == [0, 1, 1, 1]
    # Adam counts three steps.
    state = trainer.optimizers[0].state_dict()["state"]
    assert {float(entry["step"]) for entry in state.values()} == {3.0}


def test_many_in_a_row_end_the_run_and_keep_good_weights(
    tmp_path: Path, break_steps: Callable[..., None]
) -> None:
    break_steps({2, 4, 5, 6}, infinite_gradient)
    with pytest.raises(UserError, match=r"3 steps in a row .*optim.max_skipped_steps=3"):
        train(tiny_config(tmp_path, *EACH, "run.max_steps=9", "optim.max_skipped_steps=3"))
    last = load(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert last["global_step"] == 5, "written before the third was calls"
    assert all(weight.isfinite().all() for weight in last["state_dict"].values())
    assert last["callbacks"]["SkipNonFinite"] == {"skipped": 3.0, "in_row": 2.0}


def test_a_row_that_ends_before_anyone_looks_is_not_missed(
    tmp_path: Path, break_steps: Callable[..., None]
) -> None:
    break_steps({2, 3, 4}, nan_loss)
    with pytest.raises(UserError, match="3 steps in a row"):
        train(
            tiny_config(
                tmp_path,
                "run.max_steps=9",
                "run.val_every_steps=9",
                "run.log_every_steps=5",
                "optim.max_skipped_steps=3",
            )
        )


def take_steps(callback: SkipNonFinite, *gradients: float) -> None:
    """Call the hooks for training steps of a module with one weight and these gradients."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight])
    module: Any = SimpleNamespace(device=torch.device("cpu"), discriminator=torch.nn.Identity())
    trainer: Any = SimpleNamespace(accumulate_grad_batches=1, global_step=0)
    callback.on_train_start(trainer, module)
    for gradient in gradients:
        weight.grad = torch.tensor([gradient])
        callback.on_train_batch_start(trainer, module, None, trainer.global_step)
        callback.on_before_optimizer_step(trainer, module, optimizer)
        trainer.global_step += 1
        callback.on_train_batch_end(trainer, module, None, None, trainer.global_step)


def test_a_row_goes_on_over_a_resume() -> None:
    before, after = (SkipNonFinite(max_in_row=3, every_steps=1) for _ in range(2))
    take_steps(before, 1.0, math.nan, math.inf)
    after.load_state_dict(before.state_dict())
    with pytest.raises(UserError, match="3 steps in a row"):
        take_steps(after, math.nan)


def test_a_good_step_after_a_resume_ends_the_row() -> None:
    before, after = (SkipNonFinite(max_in_row=3, every_steps=1) for _ in range(2))
    take_steps(before, math.nan, math.nan)
    after.load_state_dict(before.state_dict())
    take_steps(after, 1.0, math.nan, math.nan)
    assert after.state_dict() == {"skipped": 4.0, "in_row": 2.0}


def test_accumulated_batches_are_left_out_together(
    tmp_path: Path, break_steps: Callable[..., None]
) -> None:
    accumulated = (*EACH, "optim.accumulate_batches=2")
    train(tiny_config(tmp_path, *accumulated, "run.max_steps=1"))
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    before = load(last)
    break_steps({1}, nan_loss)
    train(tiny_config(tmp_path, *accumulated, "run.max_steps=2"))
    assert_equal(before["state_dict"], load(last)["state_dict"])


def test_an_image_that_is_already_perfect_has_finite_gradients() -> None:
    from factories import random_lpips_weights, tiny_discriminator, tiny_images

    objective = Objective(
        perceptual_weight=1.0,
        adversarial_weight=0.75,
        codebook_weight=1.0,
        commitment_weight=0.25,
        legacy_codebook_loss=True,
    )
    objective.lpips.load_weights(random_lpips_weights())
    last_layer = torch.eye(3)[:, :, None, None].clone().requires_grad_()
    images = tiny_images()
    latents = torch.zeros(2, 4, 8, 8, requires_grad=True)
    reconstruction = torch.nn.functional.conv2d(images, last_layer)
    assert torch.equal(reconstruction, images)
    terms = objective(
        images,
        reconstruction,
        latents,
        latents.detach(),
        discriminate=tiny_discriminator(),
        last_layer=last_layer,
    )
    terms.backward.backward()
    assert last_layer.grad is not None
    assert last_layer.grad.isfinite().all()
    assert all(term.isfinite() for term in terms)
