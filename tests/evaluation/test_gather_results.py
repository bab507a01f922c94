"""Gathered results are in the order of the dataset; faces stay with their images."""

import numpy as np
import pytest

from vqgan_train.evaluation import gather_results as gathering
from vqgan_train.evaluation.gather_results import gather_results, image_table
from vqgan_train.evaluation.image_batches import ImageRow
from vqgan_train.evaluation.measure_images import MeasuredImage, Results
from vqgan_train.evaluation.report.results import WITH_FACE
from vqgan_train.system.errors import UserError
from vqgan_train.system.launch import ProcessRank

ALONE = ProcessRank(0, 1, 0)


def local_results(numbers: list[int], bad: list[int]) -> Results:
    """Images whose number is their PSNR, with as many faces as the number modulo 3."""
    images = []
    for number in numbers:
        faces = range(number % 3)
        boxes = np.array([[number, face, 9, 9] for face in faces]).reshape(-1, 4)
        row = ImageRow(number, f"{number}", "", "s", 1, 1, (bool(number % 2), None), boxes)
        face_values = [(10.0 * number + face,) for face in faces]
        images.append(MeasuredImage(row, (float(number),), face_values))
    return Results([], {}, [], images, [(number, f"bad {number}") for number in bad])


def gather(parts: list[Results], monkeypatch: pytest.MonkeyPatch) -> Results:
    gathered = [(part.images, part.bad) for part in parts]
    monkeypatch.setattr(gathering, "gather_to_first", lambda *_: gathered)
    gather_results(parts[0], ALONE)
    return parts[0]


def test_images_and_faces_are_in_the_order_of_the_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [local_results([0, 1, 4, 5], [9]), local_results([2, 3, 8], [6]), local_results([], [])]
    found = gather(parts, monkeypatch)
    numbers = [0, 1, 2, 3, 4, 5, 8]
    table = image_table(found.images, ["odd", "no"], has_faces=True)
    assert table.numbers.tolist() == numbers
    assert [image.values for image in found.images] == [(number,) for number in numbers]
    assert table.slices["odd"].tolist() == [bool(number % 2) for number in numbers]
    of_face = table.numbers[table.face_images]
    expected = [10.0 * number + face for number in numbers for face in range(number % 3)]
    assert [value for image in found.images for (value,) in image.face_values] == expected
    np.testing.assert_array_equal(table.face_boxes[:, 0], of_face)
    np.testing.assert_array_equal(expected, 10 * of_face + table.face_boxes[:, 1])
    assert table.slices[WITH_FACE].tolist() == [number % 3 > 0 for number in numbers]
    assert found.bad == [(6, "bad 6"), (9, "bad 9")]


def test_the_other_processes_get_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "gather_to_first", lambda *_: [])
    results = local_results([1], [])
    gather_results(results, ALONE)
    assert results.images == []


def test_no_image_at_all_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"None of the 2 images could be read\. The first: bad 3"):
        gather([local_results([], [3]), local_results([], [4])], monkeypatch)
