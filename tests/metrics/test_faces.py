"""Faces are found in photos of people and not elsewhere, and measured inside their boxes."""

import io
import tarfile
from types import SimpleNamespace

import lpips
import numpy as np
import pytest
import torch
from PIL import Image
from real_photos import PHOTOS, real_photos
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from vqgan_train.images.decoding import decode
from vqgan_train.images.transforms import crop_centre, resize_shorter_side, to_uint8
from vqgan_train.metrics import faces as module
from vqgan_train.metrics.faces import FaceMetrics, Identities, find_faces, to_numpy
from vqgan_train.metrics.images import PIXEL_METRICS, lpips_of, measure

BILINEAR = Image.Resampling.BILINEAR
PEOPLE = PHOTOS.with_name("people-00000.tar")


@pytest.fixture(scope="module")
def people() -> Tensor:
    if not PEOPLE.exists():
        pytest.skip(f"there are no photos at {PEOPLE}")
    with tarfile.open(PEOPLE) as tar:
        encoded = [tar.extractfile(m).read() for m in tar if m.name.endswith(".jpg")]  # type: ignore[union-attr]
    return torch.stack(
        [crop_centre(resize_shorter_side(decode(image), 256), 256) for image in encoded]
    )


def test_faces_are_found_in_photos_of_people_and_rarely_elsewhere(people: Tensor) -> None:
    found = [find_faces(photo) for photo in people]
    assert sum(len(boxes) > 0 for boxes in found) >= 6
    assert sum(len(find_faces(photo)) > 0 for photo in to_uint8(real_photos(8))) <= 1
    for boxes in found:
        assert boxes.dtype == np.int64
        assert ((boxes >= 0) & (boxes <= 256)).all()
        assert (boxes[:, 2:] - boxes[:, :2] > 20).all()


@pytest.fixture(scope="module")
def faces(people: Tensor) -> tuple[np.ndarray, np.ndarray]:
    found = [find_faces(photo) for photo in people[:4]]
    images = np.repeat(np.arange(4), [len(boxes) for boxes in found])
    return images, np.concatenate(found)


def test_only_what_is_inside_of_a_box_counts(
    people: Tensor, faces: tuple[np.ndarray, np.ndarray]
) -> None:
    images, boxes = faces
    outside = torch.zeros_like(people[:4])
    for image, (left, top, right, bottom) in zip(images, boxes, strict=True):
        outside[image, :, top:bottom, left:right] = people[image, :, top:bottom, left:right]
    metrics = FaceMetrics({"psnr": PIXEL_METRICS["psnr"]}, Identities())
    assert metrics.names == ("face_psnr", "face_identity")
    for image, box in zip(images, boxes, strict=True):
        psnr, _ = metrics.measure(people[image], [outside[image]], box)
        assert np.isinf(psnr)


def test_a_box_has_the_psnr_of_its_crop(
    people: Tensor, faces: tuple[np.ndarray, np.ndarray]
) -> None:
    images, boxes = faces
    blurred = gaussian_blur(people[:4], [9, 9])
    metrics = FaceMetrics({"psnr": PIXEL_METRICS["psnr"]}, None)
    for image, box in zip(images, boxes, strict=True):
        left, top, right, bottom = box
        crops = [batch[image : image + 1, :, top:bottom, left:right] for batch in (people, blurred)]
        expected = float(measure(PIXEL_METRICS, *crops)["psnr"])
        (found,) = metrics.measure(people[image], [blurred[image]], box)
        assert found == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore::UserWarning:torchvision")
def test_a_box_has_the_lpips_of_its_crop_scaled(
    people: Tensor, faces: tuple[np.ndarray, np.ndarray]
) -> None:
    theirs = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    images, boxes = faces
    blurred = gaussian_blur(people[:4], [9, 9])
    metrics = FaceMetrics({"lpips_alex": lpips_of(theirs)}, None)
    for image, box in zip(images, boxes, strict=True):
        crops = [
            Image.fromarray(to_numpy(batch[image])).crop(tuple(box)).resize((128, 128), BILINEAR)
            for batch in (people, blurred)
        ]
        one, other = (
            torch.from_numpy(np.array(crop)).permute(2, 0, 1)[None] / 127.5 - 1 for crop in crops
        )
        with torch.inference_mode():
            expected = float(theirs(one, other))
        # PIL rounds between its two passes.
        (found,) = metrics.measure(people[image], [blurred[image]], box)
        assert found == pytest.approx(expected, rel=0.02)


def test_a_person_is_near_to_themselves_and_blur_takes_them_away(
    people: Tensor, faces: tuple[np.ndarray, np.ndarray]
) -> None:
    images, boxes = faces
    versions = [people[:4], gaussian_blur(people[:4], [5, 5]), gaussian_blur(people[:4], [21, 21])]
    metrics = FaceMetrics({}, Identities())
    found = [
        metrics.measure(people[image], [version[image] for version in versions], box)
        for image, box in zip(images, boxes, strict=True)
    ]
    same, little, much = np.array(found).T
    assert np.abs(same).max() < 1e-6
    assert (little > 0).all()
    assert much.mean() > little.mean()


class MeanOfLandmarks:
    """Embeds a face as the grey level of the image that its landmarks were found in."""

    def landmarks(self, image: np.ndarray, box: np.ndarray) -> float:
        return float(image.mean())

    def embed(self, image: np.ndarray, landmarks: float) -> np.ndarray:
        return np.array([image.mean() - landmarks])


def test_a_reconstruction_is_embedded_with_the_landmarks_of_the_reference() -> None:
    reference = torch.full((3, 8, 8), 100, dtype=torch.uint8)
    metrics = FaceMetrics({}, MeanOfLandmarks())  # type: ignore[arg-type]
    found = metrics.measure(reference, [reference + 7, reference - 3], np.array([0, 0, 8, 8]))
    assert found == (7.0, 3.0)


def test_the_last_row_and_column_of_a_face_are_in_its_box(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # dlib's rectangles end at the last pixel, our boxes after it.
    faces = [dlib_rectangle(3, 1, 5, 4), dlib_rectangle(-2, 0, 1, 9)]
    monkeypatch.setattr(module, "_detector", lambda: lambda pixels, doublings: faces)
    boxes = find_faces(torch.zeros(3, 8, 8, dtype=torch.uint8))
    assert boxes.tolist() == [[0, 0, 2, 8], [3, 1, 6, 5]]


def dlib_rectangle(*sides: int) -> SimpleNamespace:
    """What dlib's detector returns for one face: left, top, right and bottom as methods."""
    names = ("left", "top", "right", "bottom")
    return SimpleNamespace(
        **{name: lambda side=side: side for name, side in zip(names, sides, strict=True)}
    )


def test_two_people_are_further_apart_than_one_and_a_little_blur(
    people: Tensor, faces: tuple[np.ndarray, np.ndarray]
) -> None:
    images, boxes = faces
    identities = Identities()

    def embed(batch: Tensor, place: int) -> np.ndarray:
        image = to_numpy(batch[images[place]])
        return identities.embed(image, identities.landmarks(image, boxes[place]))

    one, another = embed(people, 0), embed(people, len(images) - 1)
    slightly = embed(gaussian_blur(people[:4], [3, 3]), 0)
    assert np.linalg.norm(one - slightly) < np.linalg.norm(one - another)


def test_an_image_without_faces_has_an_empty_list_of_boxes() -> None:
    grey = Image.new("RGB", (64, 64), "grey")
    encoded = io.BytesIO()
    grey.save(encoded, format="PNG")
    assert find_faces(decode(encoded.getvalue())).shape == (0, 4)
