"""The validation after the last step."""

from pathlib import Path

import pytest
from tiny_runs import tiny_config

from vqgan_train.training.lightning.module import VQGANModule
from vqgan_train.training.train import train

pytestmark = pytest.mark.usefixtures("quick_lpips")


@pytest.fixture
def validated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Steps at which a validation starts, in order."""
    steps: list[int] = []
    start = VQGANModule.on_validation_epoch_start

    def remember(module: VQGANModule) -> None:
        steps.append(module.global_step)
        start(module)

    monkeypatch.setattr(VQGANModule, "on_validation_epoch_start", remember)
    return steps


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("run.max_steps=2",), [0, 2]),
        (("run.max_steps=1",), [0, 1]),
        # Nine training images: the epoch ends in the middle of the fifth step.
        (("run.max_steps=7", "run.val_every_steps=6"), [0, 6, 7]),
        (("run.max_steps=3", "optim.accumulate_batches=3"), [0, 2, 3]),
    ],
)
def test_the_last_step_is_validated_once(
    tmp_path: Path, validated: list[int], overrides: tuple[str, ...], expected: list[int]
) -> None:
    train(tiny_config(tmp_path, *overrides))
    assert validated == expected


def test_a_resumed_run_validates_where_the_whole_one_does(
    tmp_path: Path, validated: list[int]
) -> None:
    train(tiny_config(tmp_path, "run.max_steps=3"))
    train(tiny_config(tmp_path, "run.max_steps=5"))
    assert validated == [0, 2, 3, 4, 5]
