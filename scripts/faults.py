"""Faulty images and shards for fault_table.py."""

import gzip
import io
import itertools
import os
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

SAMPLES = 3
"""Samples in the small shard that most faults damage."""


class ShardFault(NamedTuple):
    """A faulty shard, and what reading it must give."""

    content: bytes | None
    """The file; None if it does not exist."""

    meanwhile: Callable[[Path], object] | None = None
    """Changes the file after it was indexed and before it is read."""

    images: int | None = 0
    """Number of images that must be read. None: any number, but each must be correct."""


# Images ------------------------------------------------------------------------------------------


def image_faults() -> dict[str, Iterable[bytes]]:
    """Return encoded images by their fault."""
    formats = {name: picture(name) for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")}
    formats["progressive JPEG"] = picture("JPEG", progressive=True)
    formats["grey JPEG"] = picture("JPEG", "L")
    formats["CMYK JPEG"] = picture("JPEG", "CMYK")
    return {
        **{f"{name} cut off at every byte": cuts(content) for name, content in formats.items()},
        **{f"{name} with changed bytes": changes(content) for name, content in formats.items()},
        "EXIF broken": broken_exif(),
        "CMYK": [formats["CMYK JPEG"], picture("TIFF", "CMYK")],
        "RGBA and grey with alpha": [picture("PNG", "RGBA"), picture("PNG", "LA")],
        "grey, black and white": [formats["grey JPEG"], picture("PNG", "L"), picture("PNG", "1")],
        "16 bits": [picture("PNG", "I;16"), picture("TIFF", "I;16"), png(20, 20, 16, 2)],
        "32 bits, floats": [picture("TIFF", "I"), picture("TIFF", "F")],
        "palette": [picture("PNG", "P"), picture("GIF", "P"), palette_with_transparency()],
        "animated": [animated("GIF"), animated("WEBP"), animated("PNG"), animated("TIFF")],
        "1 x 1": [picture(name, side=1) for name in ("JPEG", "PNG", "GIF", "WEBP", "BMP")],
        "lines": [png(1, 600, 8, 0), png(600, 1, 8, 0)],
        "decompression bombs": bombs(),
        "no image": [b"", b"\0" * 1000, b"<html>404</html>", b"\xff\xd8\xff", noise(3000)],
    }


def picture(file_format: str, mode: str = "RGB", *, side: int = 20, **options: Any) -> bytes:
    """Encode a small image of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (side, side + 4 * (side > 1), 4), np.uint8)
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 200)
    else:
        image = Image.fromarray(pixels[..., :3]).convert(mode)
    encoded = io.BytesIO()
    image.save(encoded, format=file_format, **options)
    return encoded.getvalue()


def cuts(content: bytes) -> Iterator[bytes]:
    """Yield the content cut off at every byte."""
    return (content[:size] for size in range(len(content)))


def changes(content: bytes, count: int = 500) -> Iterator[bytes]:
    """Yield copies of the content with one to four random bytes changed."""
    random = np.random.default_rng(0)
    for _ in range(count):
        changed = bytearray(content)
        for _ in range(random.integers(1, 5)):
            changed[random.integers(len(content))] = random.integers(256)
        yield bytes(changed)


def broken_exif() -> Iterator[bytes]:
    """Yield JPEGs and PNGs whose EXIF has a zero denominator, bad or circular offsets, or noise."""
    zero = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x1a\0\x05\0\0\0\x01\0\0\0\x1a" + bytes(12)
    circle = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0\x08\0\0\0"
    nowhere = b"Exif\0\0II*\0\xff\xff\xff\x7f"
    for exif in (zero, circle, nowhere, b"Exif\0\0", *(b"Exif\0\0" + noise(n) for n in range(200))):
        for file_format in ("JPEG", "PNG"):
            yield picture(file_format, exif=exif)


def palette_with_transparency() -> bytes:
    """Encode a PNG with a palette that has a transparent colour."""
    return picture("PNG", "P", transparency=3)


def animated(file_format: str) -> bytes:
    """Encode an animation of three frames."""
    frames = [Image.new("RGB", (20, 24), colour) for colour in ("red", "green", "blue")]
    encoded = io.BytesIO()
    frames[0].save(encoded, format=file_format, save_all=True, append_images=frames[1:])
    return encoded.getvalue()


def bombs() -> Iterator[bytes]:
    """Yield small files that decode to gigabytes of pixels."""
    yield png(20_000, 20_000, 8, 2)
    yield png(2**31 - 1, 2**31 - 1, 8, 2)
    jpeg = bytearray(picture("JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65_500, 65_500)
    yield bytes(jpeg)
    gif = bytearray(picture("GIF"))
    gif[6:10] = struct.pack("<HH", 65_535, 65_535)
    yield bytes(gif)
    bmp = bytearray(picture("BMP"))
    bmp[18:26] = struct.pack("<ii", 2**30, 2**30)
    yield bytes(bmp)
    yield b"P6 1000000 1000000 255\n" + noise(100)
    text = zlib.compress(b"\0" * 200_000_000)  # a text of 200 MB in 200 kB
    yield png(20, 20, 8, 2, chunk(b"zTXt", b"Comment\0\0" + text))


def png(width: int, height: int, bit_depth: int, color_type: int, more: bytes = b"") -> bytes:
    """Encode a black PNG that PIL cannot write: of rare bit depths, or of any stated size."""
    samples = {0: 1, 2: 3}[color_type]
    rows = b"" if width * height > 10**6 else (bytes(1 + width * samples * bit_depth // 8)) * height
    header = struct.pack(">IIBBBBB", width, height, bit_depth, color_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def chunk(name: bytes, content: bytes) -> bytes:
    """Encode a chunk of a PNG."""
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def noise(size: int) -> bytes:
    """Return random bytes."""
    return np.random.default_rng(size).bytes(size)


# Shards ------------------------------------------------------------------------------------------


def shard_faults() -> dict[str, Iterable[ShardFault]]:
    """Return shards by their fault."""
    small = tar(small_members())
    captions = tar({"0.txt": b"a", "1.txt": b"b"})
    return {
        "cut off at every byte": (ShardFault(c, images=None) for c in cuts(small)),
        "one byte changed, at every byte": (
            ShardFault(small[:n] + bytes([small[n] ^ 0x55]) + small[n + 1 :], images=None)
            for n in range(len(small))
        ),
        "garbage inside": (
            ShardFault(small[:n] + noise(700) + small[n + 700 :], images=None)
            for n in range(0, len(small), 64)
        ),
        "no tar (HTML, zeros, noise, gzip)": map(
            ShardFault,
            [b"<html>404</html>" * 99, bytes(20_480), noise(20_480), gzip.compress(small)],
        ),
        "empty (no byte, no member, no image)": map(ShardFault, [b"", tar({}), captions]),
        "missing at the start": [ShardFault(None)],
        "gone after the start": [ShardFault(small, Path.unlink)],
        "cut off after the start": (
            ShardFault(small, lambda path, n=n: os.truncate(path, n), images=None)
            for n in range(0, len(small), 32)
        ),
        "another file after the start": [
            ShardFault(small, lambda path, c=c: path.write_bytes(c))
            for c in (b"", captions, noise(len(small)), bytes(len(small)), b"x" * len(small))
        ],
        "half samples": [
            ShardFault(tar({**small_members(), "9.txt": b"no image"}), images=SAMPLES),
            ShardFault(tar({"9.json": b"{}", **small_members()}), images=SAMPLES),
            ShardFault(tar({**small_members(), "9.png": picture("PNG")}), images=SAMPLES + 1),
        ],
        "hostile member names": (ShardFault(c, images=SAMPLES) for c in hostile_names()),
        "hostile members (links, devices, pipes)": (
            ShardFault(c, images=SAMPLES) for c in hostile_kinds()
        ),
        "hostile headers (sparse, endless, recursive)": (
            ShardFault(c, images=None) for c in hostile_headers(small)
        ),
    }


def small_members() -> dict[str, bytes]:
    """Return three samples of a caption and a PNG, whose checksums reveal every change."""
    names = itertools.product(range(SAMPLES), ("png", "txt"))
    return {
        f"{n}.{field}": png(16 + n, 16, 8, 2) if field == "png" else b"caption"
        for n, field in names
    }


def tar(members: Mapping[str, bytes | tarfile.TarInfo], **options: Any) -> bytes:
    """Write a tar of files, and of members of other types."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", **options) as file:
        for name, held in members.items():
            if isinstance(held, tarfile.TarInfo):
                file.addfile(held)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(held)
            file.addfile(info, io.BytesIO(held))
    return content.getvalue()


def hostile_names() -> Iterator[bytes]:
    """Yield tars with member names that leave the folder or cannot be printed."""
    for name in (
        "../../.ssh/authorized_keys", "/etc/passwd", "a/../../b.txt", "C:\\x.txt", "..", ".",
        "\n.txt", "a\nb.txt", "a" * 300, f"{'b' * 5000}.txt", "/".join("c" * 50), "\x1b[2J.txt",
        "\udcff\udcfe.txt", "__key__.txt", "__url__",
    ):  # fmt: skip
        for tar_format in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
            yield tar({**small_members(), name: b"x"}, format=tar_format, errors="surrogateescape")
            yield tar({name: b"x", **small_members()}, format=tar_format, errors="surrogateescape")


def hostile_kinds() -> Iterator[bytes]:
    """Yield tars with members that are not files but have names of sample fields."""
    kinds = (
        tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE,
        tarfile.DIRTYPE, tarfile.CONTTYPE, b"Z",
    )  # fmt: skip
    for kind, name in itertools.product(kinds, ("9.png", "9", "../9.txt")):
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "/etc/passwd"
        if kind != tarfile.CONTTYPE:  # which is a file for all readers
            yield tar({"special": info, **small_members()})
            yield tar({**small_members(), "special": info})


def hostile_headers(small: bytes) -> Iterator[bytes]:
    """Yield tars whose headers claim terabytes or refer to further headers endlessly."""
    sparse = tarfile.TarInfo("0.png")
    sparse.pax_headers = {
        "GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "0,1",
        "GNU.sparse.size": str(2**42), "GNU.sparse.realsize": str(2**42),
    }  # fmt: skip
    yield tar({"0.png": sparse, **{f"1{k}": v for k, v in small_members().items()}})
    for size in (2**33 - 1, 8**11 - 1, 2**63):
        info = tarfile.TarInfo("0.png")
        info.size = size
        yield info.tobuf(tarfile.GNU_FORMAT) + small
    long_name = tarfile.TarInfo("././@LongLink")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 10
    block = long_name.tobuf(tarfile.GNU_FORMAT) + b"name.png".ljust(512, b"\0")
    for count in (2, 1000, 20_000):
        yield block * count + small
    records = tarfile.TarInfo("pax")
    records.type, records.size = tarfile.XHDTYPE, 512
    header = records.tobuf(tarfile.USTAR_FORMAT)
    for record in (
        b"9999999999 size=1\n",
        b"12 size=-99\n",
        b"0 a=b\n",
        b"\xff" * 512,
        b"20 size=1e9\n",
    ):
        yield header + record.ljust(512, b"\0") + small
