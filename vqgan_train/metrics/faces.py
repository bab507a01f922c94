"""Finds faces and measures how well a model reconstructs them.

dlib's frontal face detector needs no weights. Identities are compared by dlib's embedding network
(99.38 % on LFW according to its author), whose weights are in the package face-recognition-models.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vqgan_train.metrics.images import ImageMetric, measure

DOUBLINGS = 1
"""Doublings of an image before detection, which needs faces of 80 pixels; one finds those of 40."""

CROP_PX = 128
"""Side to which faces are scaled for LPIPS, whose values depend on the size."""

PACKAGE = "face_recognition_models"
LANDMARKS = "models/shape_predictor_5_face_landmarks.dat"
EMBEDDING = "models/dlib_face_recognition_resnet_model_v1.dat"

Pixels = NDArray[np.uint8]


def is_installed(package: str) -> bool:
    """Return whether a package is installed, without importing it."""
    return importlib.util.find_spec(package) is not None


@cache
def _detector() -> Any:
    import dlib

    return dlib.get_frontal_face_detector()


def find_faces(pixels: Tensor) -> NDArray[np.int64]:
    """Find frontal faces whose sides are about 40 pixels or more.

    Args:
        pixels: (3, H, W) uint8.

    Returns:
        Boxes (F, 4) of left, top, right, bottom, cut at the image's edges, sorted by left edge.
    """
    height, width = pixels.shape[1:]
    found = _detector()(to_numpy(pixels), DOUBLINGS)
    boxes = [[f.left(), f.top(), f.right() + 1, f.bottom() + 1] for f in found]
    limits = [width, height, width, height]
    # The detector's own order is by confidence.
    return np.array(sorted(boxes), np.int64).reshape(-1, 4).clip(0, limits)


class Identities:
    """Embeds faces so that faces of one person are near each other.

    Raises:
        ModuleNotFoundError: face-recognition-models or dlib is not installed.
    """

    def __init__(self) -> None:
        import dlib

        # Only files of the package are used, because importing it needs pkg_resources, which
        # setuptools removed.
        spec = importlib.util.find_spec(PACKAGE)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"{PACKAGE} is not installed")
        folder = Path(spec.origin).parent
        self._rectangle = dlib.rectangle
        self._landmarks = dlib.shape_predictor(str(folder / LANDMARKS))
        self._network = dlib.face_recognition_model_v1(str(folder / EMBEDDING))

    def landmarks(self, image: Pixels, box: NDArray[np.int64]) -> Any:
        """Find the eyes and the nose in an image (H, W, 3), by which `embed` aligns the face."""
        left, top, right, bottom = box.tolist()
        return self._landmarks(image, self._rectangle(left, top, right - 1, bottom - 1))

    def embed(self, image: Pixels, landmarks: Any) -> NDArray[np.float64]:
        """Return the embedding (128,); by dlib's author, one person's are less than 0.6 apart."""
        return np.array(self._network.compute_face_descriptor(image, landmarks))


class FaceMetrics:
    """Measures the reconstruction of faces.

    Args:
        metrics: image metrics by name. psnr is measured inside the boxes, the others (LPIPS) on the
            boxes scaled to `CROP_PX`.
        identities: embeds faces. None: identities are not compared.
    """

    def __init__(self, metrics: Mapping[str, ImageMetric], identities: Identities | None) -> None:
        self.metrics = metrics
        self.identities = identities

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the measured values."""
        identity = ("identity",) if self.identities is not None else ()
        return tuple(f"face_{name}" for name in (*self.metrics, *identity))

    def measure(
        self, reference: Tensor, versions: Sequence[Tensor], box: NDArray[np.int64]
    ) -> tuple[float, ...]:
        """Measure one face.

        Args:
            reference: its image (3, H, W) uint8, on the metrics' device.
            versions: reconstructions of the image.
            box: (4,) left, top, right, bottom of the face.

        Returns:
            The values of the first version in the order of `names`, then of the second, and so on.
        """
        rows = [self._crop_values(reference, pixels, box) for pixels in versions]
        if self.identities is not None:
            distances = self._identity_distances(reference, versions, box)
            rows = [[*row, distance] for row, distance in zip(rows, distances, strict=True)]
        return tuple(value for row in rows for value in row)

    def _crop_values(
        self, reference: Tensor, pixels: Tensor, box: NDArray[np.int64]
    ) -> list[float]:
        left, top, right, bottom = box.tolist()
        crops = [image[None, :, top:bottom, left:right] for image in (reference, pixels)]
        scaled = [_scale(crop) for crop in crops]
        return [
            float(measure({name: metric}, *(crops if name == "psnr" else scaled))[name])
            for name, metric in self.metrics.items()
        ]

    def _identity_distances(
        self, reference: Tensor, versions: Sequence[Tensor], box: NDArray[np.int64]
    ) -> list[float]:
        assert self.identities is not None
        image = to_numpy(reference)
        # All versions are aligned by the reference's landmarks, because landmarks of a blurred face
        # may be elsewhere.
        landmarks = self.identities.landmarks(image, box)
        person = self.identities.embed(image, landmarks)
        embedded = [self.identities.embed(to_numpy(pixels), landmarks) for pixels in versions]
        return [float(np.linalg.norm(person - other)) for other in embedded]


def to_numpy(pixels: Tensor) -> Pixels:
    """Return pixels (3, H, W) uint8 of any device as an array (H, W, 3)."""
    return pixels.permute(1, 2, 0).contiguous().cpu().numpy()


@torch.inference_mode()
def _scale(crop: Tensor) -> Tensor:
    size = (CROP_PX, CROP_PX)
    # As float, because GPUs do not interpolate bytes.
    scaled = functional.interpolate(
        crop.float(), size, mode="bilinear", align_corners=False, antialias=True
    )
    return scaled.round().clamp(0, 255).to(torch.uint8)
