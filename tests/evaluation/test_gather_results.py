"""What processes found, in the images' order: faces stay with their images."""

from array import array
from typing import Any

import numpy as np
import pytest

from vqgan_train.evaluation import gather_results as merging
from vqgan_train.evaluation.gather_results import merge
from vqgan_train.evaluation.image_batches import Row
from vqgan_train.evaluation.measure_images import Instruments, Reconstructed, Swept
from vqgan_train.evaluation.report.results import ALL, WITH_FACE
from vqgan_train.metrics.faces import FaceMetrics
from vqgan_train.metrics.images import PLAIN_METRICS
from vqgan_train.system.errors import TokenError
from vqgan_train.system.launch import ProcessRank

METRICS = {"psnr": PLAIN_METRICS["psnr"]}
INSTRUMENTS = Instruments(METRICS, FaceMetrics(METRICS, None), None, (ALL, "odd", WITH_FACE))
ALONE = ProcessRank(0, 1, 0)


def swept(numbers: list[int], bad: list[int]) -> Swept:
    """Images whose number is their PSNR, with as many faces as the number modulo 3."""
    rows, values, face_values = [], array("d"), array("d")
    for number in numbers:
        faces = number % 3
        boxes = np.array([[number, face, 9, 9] for face in range(faces)]).reshape(-1, 4)
        belongs = (bool(number % 2), None)
        rows.append(Row(number, f"{number}", "", "s", 1, 1, belongs, boxes))
        values.append(number)
        face_values.extend(10.0 * number + face for face in range(faces))
    made = Reconstructed(
        np.zeros(4, np.int64), {}, {"psnr": values}, {"face_psnr": face_values} if rows else {}
    )
    return Swept({}, [made], rows, [(number, f"bad {number}") for number in bad])


def merged(parts: list[Swept], monkeypatch: pytest.MonkeyPatch) -> Any:
    def gathered(_: Any, __: ProcessRank) -> list[Any]:
        return [merging._to_send(part, ["psnr"], ["face_psnr"]) for part in parts]

    monkeypatch.setattr(merging, "gather_to_first", gathered)
    return merge(parts[0], ["a"], ["odd", "no"], INSTRUMENTS, ALONE)


def test_images_and_faces_are_in_the_order_of_the_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [swept([0, 1, 4, 5], [9]), swept([2, 3, 8], [6]), swept([], [])]
    found = merged(parts, monkeypatch)
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
    monkeypatch.setattr(merging, "gather_to_first", lambda *_: [])
    assert merge(swept([1], []), ["a"], [], INSTRUMENTS, ALONE) is None


def test_no_image_at_all_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TokenError, match="None of the 2 images could be read, for example bad 3"):
        merged([swept([], [3]), swept([], [4])], monkeypatch)
