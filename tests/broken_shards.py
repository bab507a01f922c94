"""Shards with everything wrong that people meet, as docs/data_check.md shows them."""

import io
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from factories import image_bytes
from PIL import Image

Members = Iterable[tuple[str, bytes]]


def write_broken_shards(folder: Path) -> list[Path]:
    """Write 00000.tar, ..., 00007.tar without 00005.tar; each has troubles of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    photo = photo_bytes(seed=99)
    shards: dict[str, Members] = {
        "00000": [*_samples(0, 6)],  # nothing is wrong
        "00001": [
            *_samples(10, 14),
            *_sample("000000014", photo[:-3000]),  # breaks off
            *_sample("000000015", b"<html>404</html>"),
            *_sample("000000016", photo_bytes(height=1, width=300)),
            ("000000017.txt", b"no image"),
            ("000000017.json", b"{}"),
            ("000000018.jpg", photo),  # half a sample
        ],
        "00002": [
            *_samples(20, 24),
            ("cat.v1.jpg", photo_bytes(seed=1)),
            ("cat.v2.jpg", photo_bytes(seed=2)),
            ("000000025.JPG", photo_bytes(seed=25)),
            ("000000025.txt", b"capitals"),
            ("000000025.json", b"{}"),
            *_sample("000000020", photo_bytes(seed=26)),  # a key twice
            *_sample("000000000", photo_bytes(seed=0)),  # a key and a photo of 00000
        ],
        "00003": [
            *_sample("cmyk", _in_mode("CMYK")),
            *_sample("grey", _in_mode("L")),
            *_sample("deep", _in_mode("I;16"), "png"),
            *_sample("clear", _in_mode("RGBA"), "png"),
            *_sample("tiny", photo_bytes(height=40, width=60)),
            ("../../.ssh/authorized_keys", b"ssh-rsa"),
        ],
        "00004": [*_samples(40, 46)],  # cut off, below
        "00006": [("a.txt", b"captions"), ("b.txt", b"only")],
        "00007": [],
    }
    paths = [_write(folder / f"{name}.tar", members) for name, members in shards.items()]
    os.truncate(paths[4], 3 * paths[4].stat().st_size // 4)
    paths[-1].write_bytes(b"<!DOCTYPE html><html>not found</html>")
    return paths


def photo_bytes(height: int = 260, width: int = 300, *, seed: int = 0) -> bytes:
    """A JPEG of noise."""
    return image_bytes(height, width, seed=seed, file_format="JPEG")


def _samples(first: int, last: int) -> Members:
    for number in range(first, last):
        yield from _sample(f"{number:09d}", photo_bytes(seed=number))


def _sample(key: str, encoded: bytes, field: str = "jpg") -> Members:
    yield f"{key}.{field}", encoded
    yield f"{key}.txt", b"a caption"
    yield f"{key}.json", b"{}"


def _in_mode(mode: str) -> bytes:
    pixels: Any = np.random.default_rng(0).integers(0, 256, (280, 300, 4), dtype=np.uint8)
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 200)
    else:
        image = Image.fromarray(pixels).convert(mode)
    encoded = io.BytesIO()
    image.save(encoded, format="JPEG" if mode in ("CMYK", "L") else "PNG")
    return encoded.getvalue()


def _write(path: Path, members: Members) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path
