"""Pictures are kept for reasons that hold."""

import numpy as np
from tiny_evaluations import tiny_evaluation

from vqgan_train.evaluation.kept_pictures import select_pictures

FOUND = tiny_evaluation(images=40)
BEFORE, AFTER = FOUND.checkpoints


def rows_of(chosen: dict[int, tuple[str, ...]], reason: str) -> set[int]:
    return {row for row, reasons in chosen.items() if reason in reasons}


def test_best_and_worst_are_so_in_the_metrics_own_direction() -> None:
    chosen = select_pictures(FOUND.images, [BEFORE, AFTER], each=3)
    ssim, lpips = AFTER.values["ssim"], AFTER.values["lpips_vgg"]
    assert rows_of(chosen, "worst ssim") == set(np.argsort(ssim)[:3].tolist())
    assert rows_of(chosen, "best ssim") == set(np.argsort(-ssim)[:3].tolist())
    assert rows_of(chosen, "worst lpips_vgg") == set(np.argsort(-lpips)[:3].tolist())
    change = lpips - BEFORE.values["lpips_vgg"]
    assert rows_of(chosen, "gained lpips_vgg") == set(np.argsort(change)[:3].tolist())
    assert rows_of(chosen, "lost lpips_vgg") == set(np.argsort(-change)[:3].tolist())


def test_fixed_ones_are_spread_and_faces_have_faces() -> None:
    chosen = select_pictures(FOUND.images, [AFTER], each=4)
    assert rows_of(chosen, "fixed") == {0, 10, 20, 30}
    assert rows_of(chosen, "face") <= set(FOUND.images.face_images.tolist())
    assert len(rows_of(chosen, "face")) == 4
    assert not any("gained" in reason for reasons in chosen.values() for reason in reasons)
    assert list(chosen) == sorted(chosen)


def test_few_images_are_all_that_there_is() -> None:
    found = tiny_evaluation(images=2)
    assert set(select_pictures(found.images, found.checkpoints, each=5)) == {0, 1}
    assert select_pictures(found.images, found.checkpoints, each=0) == {}
