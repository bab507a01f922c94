"""TF32 is allowed or forbidden inside a block, and set back after it."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import backends

from vqgan_train.system.devices import tf32_convolutions


def settings() -> tuple[str, ...]:
    """As kernels read them."""
    operations = (backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.matmul)
    return tuple(operation.fp32_precision for operation in operations)


@pytest.fixture(autouse=True)
def kept() -> Iterator[None]:
    with tf32_convolutions(allowed=False):
        yield


def by_older_names() -> None:
    backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("medium")


def by_newer_names() -> None:
    backends.cudnn.conv.fp32_precision = "tf32"
    backends.cuda.matmul.fp32_precision = "tf32"


def for_all() -> None:
    backends.fp32_precision = "tf32"  # type: ignore[attr-defined]


def nothing() -> None:
    pass


@pytest.mark.parametrize("set_before", [nothing, by_older_names, by_newer_names])
@pytest.mark.parametrize("allowed", [False, True])
def test_a_block_has_its_own_and_leaves_all_as_it_was(
    set_before: Callable[[], None], allowed: bool
) -> None:
    set_before()
    before = settings()
    with tf32_convolutions(allowed):
        assert settings() == ("tf32" if allowed else "ieee", "ieee", "ieee")
        with tf32_convolutions(not allowed):
            assert settings()[0] == ("ieee" if allowed else "tf32")
        assert settings()[0] == ("tf32" if allowed else "ieee")
    assert settings() == before


def fail_in_a_block() -> None:
    with tf32_convolutions(allowed=False):
        raise KeyError


def test_a_block_that_fails_leaves_all_as_it_was() -> None:
    by_older_names()
    before = settings()
    with pytest.raises(KeyError):
        fail_in_a_block()
    assert settings() == before


@pytest.mark.parametrize("set_before", [nothing, by_older_names])
def test_the_older_names_can_be_read_inside_and_after(set_before: Callable[[], None]) -> None:
    set_before()
    before = backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    with tf32_convolutions(allowed=False):
        assert not backends.cudnn.allow_tf32
        assert not backends.cuda.matmul.allow_tf32
    assert (backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()) == before


def test_what_is_set_for_all_operations_is_not_taken_over() -> None:
    try:
        for_all()
        with tf32_convolutions(allowed=False):
            assert set(settings()) == {"ieee"}
    finally:
        backends.fp32_precision = "none"  # type: ignore[attr-defined]
