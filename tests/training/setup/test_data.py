"""Training and validation data are read as the settings say."""

from pathlib import Path

import pytest
from tiny_runs import tiny_config

from vqgan_train.images.transforms import ImageTransform
from vqgan_train.training.setup.data import build_data


@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize("flip", [True, False])
def test_training_images_are_augmented_as_asked_and_validation_images_never(
    tmp_path: Path, crop: bool, flip: bool
) -> None:
    data = build_data(tiny_config(tmp_path, f"data.random_crop={crop}", f"data.random_flip={flip}"))
    assert data.train_transform == ImageTransform(20, 16, random_crop=crop, random_flip=flip)
    assert data.val_transform == ImageTransform(20, 16, random_crop=False, random_flip=False)
