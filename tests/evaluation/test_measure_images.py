"""Membership of the images of a batch in groups."""

import numpy as np

from vqgan_train.evaluation.image_batches import ImageRow
from vqgan_train.evaluation.measure_images import group_members
from vqgan_train.evaluation.report.results import ALL, WITH_FACE


def row(*slices: bool | None, faces: int = 0) -> ImageRow:
    return ImageRow(0, "", "", "", 1, 1, slices, np.zeros((faces, 4), np.int64))


def test_each_slice_has_its_own_images_wherever_it_stands() -> None:
    rows = [row(True, False, None), row(False, True, True, faces=2), row(True, True, None)]
    for groups in ((ALL, "a", "b", "c", WITH_FACE), (WITH_FACE, "a", "b", ALL, "c")):
        members = {name: chosen.tolist() for name, chosen in group_members(rows, groups).items()}
        assert list(members) == list(groups)
        assert members == {
            ALL: [True, True, True],
            "a": [True, False, True],
            "b": [False, True, True],
            "c": [False, True, False],
            WITH_FACE: [False, True, False],
        }
