import io
from pathlib import Path

import numpy as np
import pytest
from factories import read_with_webdataset
from PIL import Image

from vqgan_train.shards import sample_photos as photos
from vqgan_train.shards.index import index_shard

Shards = tuple[Path, Path]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    """The sample photos, packed once for all tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return photos.pack_sample_photos()


@pytest.fixture
def two_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pack few photos, to save time."""
    monkeypatch.setattr(photos, "TRAINING", {"coins": (256,)})
    monkeypatch.setattr(photos, "VALIDATION", {"coffee": ((0, 0, 400, 400),)})


def pixels(sample: dict[str, bytes]) -> np.ndarray:
    with Image.open(io.BytesIO(sample["jpg"])) as image:
        assert (image.format, image.mode) == ("JPEG", "RGB")
        return np.asarray(image).astype(int)


def test_packing_again_gives_the_same_bytes(shards: Shards, cache: Path) -> None:
    again = photos.pack_sample_photos()
    for first, second in zip(shards, again, strict=True):
        assert second.is_relative_to(cache / "sample_photos")
        assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in again[0].parent.iterdir()) == ["train.tar", "val.tar"]


@pytest.mark.usefixtures("two_photos")
def test_what_is_there_is_not_packed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first = [(path, path.stat().st_mtime_ns) for path in photos.pack_sample_photos()]
    monkeypatch.setattr(photos, "_photo", None)
    second = [(path, path.stat().st_mtime_ns) for path in photos.pack_sample_photos()]
    assert first == second


@pytest.mark.usefixtures("two_photos")
def test_another_recipe_makes_other_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    train, _ = photos.pack_sample_photos()
    monkeypatch.setattr(photos, "TRAINING", {"coins": (300,)})
    other, _ = photos.pack_sample_photos()
    assert train != other
    assert train.read_bytes() != other.read_bytes()


def test_a_pack_that_breaks_off_leaves_no_shard(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photos, "TRAINING", {"coins": (256,), "no such photo": (256,)})
    with pytest.raises(ValueError, match="not enough values"):
        photos.pack_sample_photos()
    assert not list((cache / "sample_photos").rglob("*.tar"))


def test_webdataset_reads_both_shards(shards: Shards) -> None:
    for path in shards:
        index = index_shard(path)
        samples = read_with_webdataset(path)
        assert (len(index.starts), index.problem, index.without_image) == (len(samples), "", 0)
        assert len({sample["__key__"] for sample in samples}) == len(samples)
        for sample in samples:
            assert set(sample) == {"__key__", "jpg", "txt"}
            assert sample["txt"].decode() == sample["__key__"].replace("_", " ")
            assert pixels(sample).shape == (photos.TILE, photos.TILE, 3)


def test_validation_photos_are_in_no_training_tile(shards: Shards) -> None:
    train, val = (read_with_webdataset(path) for path in shards)
    assert not photos.VALIDATION.keys() & photos.TRAINING.keys()
    assert {sample["__key__"].rsplit("_", 1)[0] for sample in val} == photos.VALIDATION.keys()
    assert {sample["__key__"].rsplit("_", 3)[0] for sample in train} == photos.TRAINING.keys()
    assert not {sample["jpg"] for sample in train} & {sample["jpg"] for sample in val}


def test_validation_views_show_their_boxes(shards: Shards) -> None:
    for sample in read_with_webdataset(shards[1]):
        name, number = sample["__key__"].rsplit("_", 1)
        left, top, right, bottom = photos.VALIDATION[name][int(number)]
        photo = photos._photo(name)
        assert 0 <= left < right <= photo.width
        assert 0 <= top < bottom <= photo.height
        view = photo.resize((photos.TILE, photos.TILE), box=(left, top, right, bottom))
        assert np.abs(pixels(sample) - np.asarray(view)).mean() < 8


def test_training_tiles_are_cut_from_their_photo_and_cover_it(shards: Shards) -> None:
    corners: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for sample in read_with_webdataset(shards[0]):
        name, *numbers = sample["__key__"].rsplit("_", 3)
        side, top, left = map(int, numbers)
        corners.setdefault((name, side), []).append((top, left))
        photo = photos._photo(name)
        scale = side / min(photo.size)
        box = [edge / scale for edge in (left, top, left + photos.TILE, top + photos.TILE)]
        box[2:] = min(box[2], photo.width), min(box[3], photo.height)
        view = photo.resize((photos.TILE, photos.TILE), box=tuple(box))
        assert np.abs(pixels(sample) - np.asarray(view)).mean() < 8, sample["__key__"]
    assert corners.keys() == {(name, s) for name, sides in photos.TRAINING.items() for s in sides}
    for (name, side), places in corners.items():
        photo = photos._photo(name)
        covered = np.zeros([round(s * side / min(photo.size)) for s in photo.size[::-1]], bool)
        for top, left in places:
            covered[top : top + photos.TILE, left : left + photos.TILE] = True
        assert covered.all(), name
