"""Names of checkpoints are short and unique."""

import pytest

from vqgan_train.evaluation.evaluate import checkpoint_names


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        (["before.ckpt", "runs/after.ckpt"], ["before", "after"]),
        (["runs/a/checkpoints/best.ckpt", "runs/b/checkpoints/best.ckpt"], ["a", "b"]),
        (["runs/a/best.ckpt", "runs/a/last.ckpt"], ["best", "last"]),
        (["a/best.ckpt", "best.ckpt"], ["best 1", "best 2"]),
        (["a.ckpt", "a.ckpt"], ["a 1", "a 2"]),
        (["https://host/v1.2.safetensors#sha256=ab", "hf://user/repo@main/v1.2.ckpt"],
         ["host", "user/repo@main"]),
        (["only.ckpt"], ["only"]),
        (["slice.ckpt", "b.ckpt"], ["slice 1", "b 2"]),
    ],
)  # fmt: skip
def test_what_differs_is_the_name(sources: list[str], names: list[str]) -> None:
    assert checkpoint_names(sources) == names
