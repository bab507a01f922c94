"""Gathered results are in the order of the dataset; faces stay with their images."""

from array import array
from typing import Any

import numpy as np
import pytest
import torch

from vqgan_train.evaluation import gather_results as gathering
from vqgan_train.evaluation.gather_results import gather_results
from vqgan_train.evaluation.image_batches import ImageRow
from vqgan_train.evaluation.measure_images import LocalCheckpointResults, LocalResults
from vqgan_train.evaluation.report.results import WITH_FACE
from vqgan_train.system.errors import UserError
from vqgan_train.system.launch import ProcessRank

ALONE = ProcessRank(0, 1, 0)


def local_results(numbers: list[int], bad: list[int]) -> LocalResults:
    """Images whose number is their PSNR, with as many faces as the number modulo 3."""
    rows, values, face_values = [], array("d"), array("d")
    for number in numbers:
        faces = number % 3
        boxes = np.array([[number, face, 9, 9] for face in range(faces)]).reshape(-1, 4)
        belongs = (bool(number % 2), None)
        rows.append(ImageRow(number, f"{number}", "", "s", 1, 1, belongs, boxes))
        values.append(number)
        face_values.extend(10.0 * number + face for face in range(faces))
    checkpoint = LocalCheckpointResults(
        torch.zeros(4, dtype=torch.int64), {}, {"psnr": values}, {"face_psnr": face_values}
    )
    return LocalResults({}, [checkpoint], rows, [(number, f"bad {number}") for number in bad])


def gather(parts: list[LocalResults], monkeypatch: pytest.MonkeyPatch) -> Any:
    def gathered(_: Any, __: ProcessRank) -> list[Any]:
        return [gathering._report(part) for part in parts]

    monkeypatch.setattr(gathering, "gathered", gathered)
    return gather_results(parts[0], ["a"], ["odd", "no"], ALONE, has_faces=True)


def test_images_and_faces_are_in_the_order_of_the_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [local_results([0, 1, 4, 5], [9]), local_results([2, 3, 8], [6]), local_results([], [])]
    found = gather(parts, monkeypatch)
    numbers = [0, 1, 2, 3, 4, 5, 8]
    assert found.images.numbers.tolist() == numbers
    assert found.measured[0].values["psnr"].tolist() == numbers
    assert found.images.slices["odd"].tolist() == [bool(number % 2) for number in numbers]
    of_face = found.images.numbers[found.images.face_images]
    expected = [10.0 * number + face for number in numbers for face in range(number % 3)]
    assert found.measured[0].face_values["face_psnr"].tolist() == expected
    np.testing.assert_array_equal(found.images.face_boxes[:, 0], of_face)
    np.testing.assert_array_equal(expected, 10 * of_face + found.images.face_boxes[:, 1])
    assert found.images.slices[WITH_FACE].tolist() == [number % 3 > 0 for number in numbers]
    assert found.unreadable == ("bad 6", "bad 9")
    assert found.without_column == ("no",)


def test_the_other_processes_get_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "gathered", lambda *_: [])
    assert gather_results(local_results([1], []), ["a"], [], ALONE, has_faces=True) is None


def test_no_image_at_all_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="None of the 2 images could be read, for example bad 3"):
        gather([local_results([], [3]), local_results([], [4])], monkeypatch)
