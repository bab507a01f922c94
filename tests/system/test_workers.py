"""Worker processes: results in order, few tasks drawn ahead, errors with their file and number."""

import errno
from collections.abc import Iterator

import pytest

from vqgan_train.system.errors import UserError
from vqgan_train.system.workers import run_tasks


def double(number: int) -> int:
    if number == 98:
        raise UserError("98 is not even a number")
    if number == 99:
        raise OSError(errno.ENOSPC, "No space left on device", "/out/99.tar")
    return 2 * number


@pytest.mark.parametrize("num_workers", [0, 2])
def test_results_come_in_order_and_tasks_are_drawn_as_they_are_needed(num_workers: int) -> None:
    drawn = []

    def tasks() -> Iterator[int]:
        for number in range(20):
            drawn.append(number)
            yield number

    results = run_tasks(double, tasks(), num_workers=num_workers)
    assert next(results) == 0
    assert len(drawn) <= 2 * num_workers + 1
    assert list(results) == [2 * number for number in range(1, 20)]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_errors_for_the_user_arrive_as_they_were_raised(num_workers: int) -> None:
    with pytest.raises(UserError, match="98 is not even a number") as refused:
        list(run_tasks(double, [1, 98], num_workers=num_workers))
    assert str(refused.value) == "98 is not even a number"
    with pytest.raises(OSError, match="No space left") as caught:
        list(run_tasks(double, [99], num_workers=num_workers))
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "/out/99.tar")
