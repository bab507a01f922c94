"""Real photos, where there are some beside the checkout."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

PHOTOS = Path(__file__).parents[2] / "shared" / "photos" / "00000.tar"


def real_photos(count: int, side: int = 256) -> Tensor:
    """The first photos (count, 3, side, side) in [-1, 1]; the test is skipped if there are none."""
    if not PHOTOS.exists():
        pytest.skip(f"there are no photos at {PHOTOS}")
    images = []
    with tarfile.open(PHOTOS) as tar:
        for member in tar:
            if member.name.endswith((".jpg", ".jpeg", ".png")) and (
                file := tar.extractfile(member)
            ):
                image = Image.open(io.BytesIO(file.read())).convert("RGB")
                images.append(np.asarray(ImageOps.fit(image, (side, side))))
            if len(images) == count:
                break
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
