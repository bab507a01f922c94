"""An image that the system cannot read is not a bad image: it is read again, then an error."""

import errno
from pathlib import Path

import pytest
from factories import image_bytes

from vqgan_train.images import locations
from vqgan_train.images.locations import (
    EncodedImage,
    FileLocation,
    ImageLocation,
    NoImageError,
    ShardLocation,
    read_with_retries,
)
from vqgan_train.images.sources import Chunk
from vqgan_train.images.transforms import ImageTransform
from vqgan_train.system.errors import UserError
from vqgan_train.tokens.batches import load_batches

SYSTEM_ERRORS = (errno.ESTALE, errno.EIO, errno.EACCES, errno.EMFILE, errno.ETIMEDOUT)
UNREADABLE_FILE = Path("/proc/self/mem")
"""Reading its first byte is an input/output error, for anybody."""


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locations, "RETRY_DELAYS_SECONDS", (0, 0))


@pytest.mark.parametrize("number", SYSTEM_ERRORS)
def test_an_error_of_the_system_that_passes_costs_nothing(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    location, asked = FileLocation(0, Path("a.png"), "a.png", ""), []

    def fail_twice(self: FileLocation) -> EncodedImage:
        asked.append(self)
        if len(asked) < 3:
            raise OSError(number, "it")
        return EncodedImage("a.png", "0", "", "a.png", b"image", b"")

    monkeypatch.setattr(FileLocation, "read", fail_twice)
    assert read_with_retries(location).image == b"image"


@pytest.mark.skipif(not UNREADABLE_FILE.exists(), reason="there is no /proc here")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_one_that_stays_stops_and_names_the_file(tmp_path: Path, num_workers: int) -> None:
    good, broken = tmp_path / "good.png", tmp_path / "broken.png"
    good.write_bytes(image_bytes())
    broken.symlink_to(UNREADABLE_FILE)
    files: list[ImageLocation] = [
        FileLocation(n, file, file.name, "") for n, file in enumerate((good, broken))
    ]
    batches = load_batches(
        [Chunk("001", files)], ImageTransform(16, 16), batch_size=2, num_workers=num_workers
    )
    with pytest.raises(UserError, match=r"broken\.png cannot be read: Input/output error"):
        list(batches)


def test_a_file_that_is_not_there_or_cannot_be_is_a_bad_image(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    names = ("gone.png", "folder.png", "x" * 300 + ".png", "folder.png/a.png")
    files: list[ImageLocation] = [
        FileLocation(n, tmp_path / name, name, "") for n, name in enumerate(names)
    ]
    for location in files:
        with pytest.raises(NoImageError):
            read_with_retries(location)
    (batch,) = load_batches(
        [Chunk("001", [*files, FileLocation(9, Path("a\0.png"), "a\0.png", "")])],
        ImageTransform(16, 16),
        batch_size=9,
        num_workers=0,
    )
    assert len(batch.bad) == 5
    assert batch.labels == []


def test_a_shard_that_is_gone_stops_too(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.tar cannot be read: No such file"):
        read_with_retries(ShardLocation(tmp_path / "gone.tar", 0, 512))
