import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from factories import image_bytes
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from vqgan_train.images.decoding import decode, is_turned
from vqgan_train.images.sample import UNREADABLE
from vqgan_train.images.transforms import (
    ImageTransform,
    resize_shorter_side,
    to_model_range,
    to_uint8,
)

ALBUMENTATIONS = {
    (13, 19, 8, 5): (
        "ab185b387bce9bbc4e5064b48b7a37967ecbb0a9808d88bdba9b778492af9ebb46858abf73c66a65"
        "92367e4f904469b3bf9077688f346c6eb76cbf7d8768317c99a673549063b6804da077"
    ),
    (19, 13, 8, 5): (
        "71c427765daaa1be496b90da60b377c17e6d6c6582666ba0c3947b6e7b4a2171b7b17a758283326f"
        "9cc478599571b449a18365d05380cf7e7f9e9962b1aa6793567f62979c73a8ad905f6c"
    ),
    (7, 5, 9, 6): (
        "4a9d9b70c33396bd3cbcad63ac7c89955ca45fb2b087db4ab09a56d83f7e7d5ca63a7bb474a0769f"
        "895495696f7d469a5b7182488e698a8730b6265c7136890f62b53b8e53689e0e9f9c45cd3d738a4f"
        "a22a7dd059ac7187be2dada45ad3528b9868b24699d877be85a5cc4d"
    ),
    (5, 8, 9, 6): (
        "8bcc31ae5d54bf2477b1479a856b9f478e91a8e94ecd7c73c24598656bbe4f909264b535bc9b6ba3"
        "72928367a1598e88628d648a733acf3487665eb13588a45eb13b88802eb2175867519a527d74568a"
        "55816540ad4953d934801a6dae499c4a77931da52f4bc92679e754a7"
    ),
    (16, 24, 8, 5): (
        "4ea1b4a77a8d809366996c7f728598b3869968bb8e9d708392a578875aad98ab7e697c4f7a8da08b"
        "9e719c6f827d90a36a7d9057aa7d84976ab18457a27588ab7e51b4875abd906346996c"
    ),
    (4, 5, 2, 2): ("419487be318496895c55885b"),
    (4, 7, 2, 1): ("97ca3d"),
    (9, 12, 9, 4): (
        "6ec114b70a5d0053a6499cefaf0255ff52a54fa2f59ff245f04396479aed9ef144f5489b3184d78f"
        "e235ed40934b9ef1"
    ),
}
"""(height, width, shorter side, crop) to pixels, in hex: what albumentations 2.0.8 with OpenCV 5.0
makes of `pattern` by SmallestMaxSize(size, interpolation=cv2.INTER_LINEAR) and CenterCrop(crop).
OpenCV 4.5.5 and the formulas of albumentations 1.0.0, both of 2021, give the same bytes."""


def pattern(height: int, width: int) -> NDArray[np.uint8]:
    row, column, channel = np.ogrid[:height, :width, :3]
    return ((row * 37 + column * 59 + channel * 83 + row * column * 7) % 256).astype(np.uint8)


def encode(image: Image.Image | NDArray[Any], file_format: str = "PNG", **options: Any) -> bytes:
    encoded = io.BytesIO()
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    image.save(encoded, format=file_format, **options)
    return encoded.getvalue()


def as_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


def center(size: int, crop: int) -> ImageTransform:
    return ImageTransform(size, crop, random_crop=False, random_flip=False)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def png(width: int, height: int, bit_depth: int, color_type: int, rows: bytes) -> bytes:
    """Write a PNG by hand: of kinds that PIL reads and does not write, or of any stated size."""
    header = struct.pack(">IIBBBBB", width, height, bit_depth, color_type, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def png_chunk(name: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


@pytest.mark.parametrize("case", ALBUMENTATIONS)
def test_pixels_are_albumentations_within_one_grey_level(case: tuple[int, int, int, int]) -> None:
    height, width, size, crop = case
    expected = np.frombuffer(bytes.fromhex(ALBUMENTATIONS[case]), np.uint8)
    expected = expected.reshape(crop, crop, 3).astype(int)
    found = to_uint8(center(size, crop)(encode(pattern(height, width)), rng()))
    difference = found.permute(1, 2, 0).numpy().astype(int) - expected
    assert np.abs(difference).max() <= 1
    # Both compute with integers; torch rounds after each of the two directions, OpenCV cuts bits
    # off at the end. On photos 20 % of the values differ.
    assert np.mean(difference != 0) <= 0.3


def test_scaling_is_rounded_interpolation_within_one_grey_level() -> None:
    """By torch's kernel for bytes, whose pixels are the same on every processor."""
    for seed, (height, width, size) in enumerate([(97, 60, 50), (60, 97, 80), (300, 401, 64)]):
        image = as_tensor(rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))
        found = resize_shorter_side(image, size)
        exact = F.interpolate(image[None].double(), found.shape[1:], mode="bilinear")[0]
        assert (found.double() - exact).abs().max() <= 1.01
        assert (found.double() - exact).abs().mean() <= 0.35
        assert abs((found.double() - exact).mean()) <= 0.1


def test_sides_are_rounded_as_by_albumentations() -> None:
    """Ties go to the even side; albumentations 2.0.8 and `round` agree on 2,694 other sizes."""
    expected = {
        (4, 5): (2, 2), (4, 7): (2, 4), (5, 4): (2, 2), (7, 4): (4, 2), (4, 9): (2, 4),
        (4, 11): (2, 6), (3, 10): (2, 7), (1, 2): (2, 4), (2, 2): (2, 2),
    }  # fmt: skip
    found = {
        sides: tuple(resize_shorter_side(torch.zeros(3, *sides, dtype=torch.uint8), 2).shape[1:])
        for sides in expected
    }
    assert found == expected


@pytest.mark.parametrize("side", [1, 3, 7, 49, 98, 103, 107, 161, 187, 196, 255, 257, 511])
def test_the_shorter_side_is_exact(side: int) -> None:
    wide = resize_shorter_side(torch.zeros(3, side, side + 5, dtype=torch.uint8), 256)
    high = resize_shorter_side(torch.zeros(3, side + 5, side, dtype=torch.uint8), 256)
    assert wide.shape[1] == high.shape[2] == 256


def test_an_image_of_the_right_size_is_left_alone() -> None:
    pixels = pattern(8, 11)
    found = resize_shorter_side(as_tensor(pixels), 8)
    assert torch.equal(found, as_tensor(pixels))
    for size in (8, 5):
        top, left = (8 - size) // 2, (11 - size) // 2
        image = to_uint8(center(8, size)(encode(pixels), rng()))
        assert torch.equal(image, as_tensor(pixels[top : top + size, left : left + size]))


def test_a_single_pixel_becomes_a_plain_image() -> None:
    image = center(8, 8)(encode(np.full((1, 1, 3), 51, np.uint8)), rng())
    assert torch.equal(image, torch.full((3, 8, 8), 51 / 127.5 - 1))


def test_a_line_is_refused_before_it_fills_the_memory() -> None:
    with pytest.raises(ValueError, match="3000 x 2 pixels is too long"):
        center(256, 256)(encode(np.zeros((2, 3000, 3), np.uint8)), rng())
    assert center(8, 8)(encode(np.zeros((100, 2, 3), np.uint8)), rng()).shape == (3, 8, 8)


def test_values_run_from_minus_one_to_one() -> None:
    grey = torch.arange(256, dtype=torch.uint8)
    scaled = to_model_range(grey)
    assert scaled.dtype == torch.float32
    assert torch.equal(scaled, torch.arange(256, dtype=torch.float32) / 127.5 - 1)
    assert (scaled[0], scaled[255]) == (-1, 1)


def test_a_gpu_divides_as_a_cpu_does() -> None:
    """CUDA multiplies by the reciprocal of a number, which differs for most levels of grey."""
    grey = torch.arange(256, dtype=torch.float32)
    assert not torch.equal(grey * (1 / torch.tensor(127.5)), grey / 127.5)
    divisors = []

    class Divisions(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func._schema.name.startswith("aten::div"):
                divisors.append(args[1])
            return func(*args, **(kwargs or {}))

    with FakeTensorMode(), Divisions():
        scaled = to_model_range(torch.empty(2, 3, 4, 4, dtype=torch.uint8, device="cuda"))
    assert scaled.device.type == "cuda"
    assert [divisor.device.type for divisor in divisors] == ["cuda"]


def test_to_uint8_is_the_inverse() -> None:
    grey = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_model_range(grey)), grey)
    # Half a level beside is still rounded to it, and what is outside is clipped.
    assert torch.equal(to_uint8(to_model_range(grey) + 0.49 / 127.5), grey)
    assert torch.equal(to_uint8(to_model_range(grey) - 0.49 / 127.5), grey)
    assert to_uint8(torch.tensor([-7.0, -1.01, 1.01, 7.0])).tolist() == [0, 0, 255, 255]
    assert to_uint8(torch.tensor([-1.0, 0.5], dtype=torch.bfloat16)).tolist() == [0, 191]


def test_crop_and_flip_depend_on_the_generator_alone() -> None:
    transform = ImageTransform(20, 16, random_crop=True, random_flip=True)
    encoded = encode(pattern(20, 30))
    torch.manual_seed(0)
    np.random.seed(0)
    first = [transform(encoded, rng(seed)) for seed in range(10)]
    second = [transform(encoded, rng(seed)) for seed in range(10)]
    assert all(map(torch.equal, first, second))
    assert len({image.numpy().tobytes() for image in first}) > 5


def test_without_random_parts_the_generator_is_not_used() -> None:
    transform, encoded = center(20, 16), encode(pattern(20, 30))
    assert torch.equal(transform(encoded, rng(0)), transform(encoded, rng(1)))


def test_random_crops_reach_every_place_equally() -> None:
    pixels = pattern(6, 8)
    transform = ImageTransform(6, 4, random_crop=True, random_flip=False)
    places = {
        pixels[top : top + 4, left : left + 4].tobytes(): (top, left)
        for top in range(3)
        for left in range(5)
    }
    encoded, random = encode(pixels), rng()
    counts = dict.fromkeys(places.values(), 0)
    for _ in range(1500):
        image = to_uint8(transform(encoded, random)).permute(1, 2, 0).numpy()
        counts[places[image.tobytes()]] += 1
    assert len(counts) == 15
    assert 60 < min(counts.values()) <= max(counts.values()) < 140


def test_every_other_image_is_mirrored() -> None:
    pixels = as_tensor(pattern(6, 6))
    transform = ImageTransform(6, 6, random_crop=False, random_flip=True)
    encoded, random = encode(pattern(6, 6)), rng()
    images = [to_uint8(transform(encoded, random)) for _ in range(400)]
    as_is = sum(torch.equal(image, pixels) for image in images)
    mirrored = sum(torch.equal(image, pixels.flip(2)) for image in images)
    assert as_is + mirrored == 400
    assert 160 < mirrored < 240


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "PPM", "TIFF", "WEBP", "GIF", "JPEG"])
def test_formats_decode_to_rgb_as_pil_does(file_format: str) -> None:
    lossless = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}
    pixels = np.repeat(np.repeat(pattern(2, 3), 8, 0), 8, 1)  # blocks that JPEG keeps
    found = decode(encode(pixels, file_format, **lossless.get(file_format, {})))
    assert (found.shape, found.dtype) == ((3, 16, 24), torch.uint8)
    tolerance = {"JPEG": 3, "GIF": 0}.get(file_format, 0)
    assert (found.int() - as_tensor(pixels).int()).abs().max() <= tolerance


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_colour_jpegs_have_the_pixels_that_pil_decodes(subsampling: int, progressive: bool) -> None:
    """And damage that PIL refuses is refused: the faster decoder lets nothing through."""
    pixels = np.repeat(np.repeat(pattern(5, 6), 7, 0), 7, 1)
    encoded = encode(pixels, "JPEG", subsampling=subsampling, progressive=progressive)
    assert torch.equal(decode(encoded), as_tensor(by_pil(encoded)))
    read, random = 0, rng()
    for _ in range(300):
        changed = bytearray(encoded)
        changed[random.integers(len(encoded))] = random.integers(256)
        try:
            expected = by_pil(bytes(changed))
        except UNREADABLE:
            with pytest.raises(UNREADABLE):
                decode(bytes(changed))
            continue
        assert torch.equal(decode(bytes(changed)), as_tensor(expected))
        read += 1
    assert 50 < read < 300


def by_pil(encoded: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(encoded)) as image:
        return np.array(image.convert("RGB"))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_mode_becomes_what_pil_converts_it_to(mode: str) -> None:
    image = Image.fromarray(pattern(8, 9)).convert(mode)
    encoded = encode(image, "JPEG" if mode == "CMYK" else "PNG")
    expected = Image.open(io.BytesIO(encoded)).convert("RGB")
    assert torch.equal(decode(encoded), as_tensor(np.array(expected)))
    assert center(8, 8)(encoded, rng()).shape == (3, 8, 8)


def test_what_is_transparent_is_white() -> None:
    """A black logo on nothing would be a black rectangle. Opaque pixels keep their values."""
    alpha = np.full((4, 5), 255, np.uint8)
    alpha[0], alpha[1] = 0, 51
    expected = pattern(4, 5)
    expected[0] = 255
    expected[1] = np.round(255 - 0.2 * (255 - expected[1].astype(float)))
    found = decode(encode(np.dstack([pattern(4, 5), alpha])))
    assert (found.int() - as_tensor(expected).int()).abs().max() <= 1
    assert torch.equal(found[:, [0, 2, 3]], as_tensor(expected)[:, [0, 2, 3]])
    logo = Image.fromarray(np.dstack([np.zeros((4, 5), np.uint8), alpha]), "LA")
    assert decode(encode(logo))[0, :, 0].tolist() == [255, 204, 0, 0]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([0, 0, 0, 9, 9, 9])
    assert decode(encode(palette, transparency=0))[0].tolist() == [[255, 9]]


@pytest.mark.parametrize(("dtype", "kind"), [(np.float32, "floats"), (np.int32, "32-bit integers")])
def test_pixels_without_a_known_range_are_refused(dtype: type, kind: str) -> None:
    """PIL clips floats from 0 to 1 to black, and 32-bit integers to white."""
    with pytest.raises(ValueError, match=f"its pixels are {kind}, whose range is unknown"):
        decode(encode(np.ones((4, 5), dtype), "TIFF"))


def test_ppm_of_16_bits_keeps_its_shades() -> None:
    """PIL opens it as 32-bit integers."""
    shades = np.array([0, 256, 32_768, 65_535], ">u2").tobytes()
    assert decode(b"P5 4 1 65535\n" + shades)[0].tolist() == [[0, 1, 128, 255]]


@pytest.mark.parametrize("name", ["AVIF", "HEIF"])
def test_newer_formats_decode_where_pil_reads_them(name: str) -> None:
    Image.init()
    if name not in Image.SAVE:
        pytest.skip(f"PIL does not write {name} here")
    pixels = np.full((16, 24, 3), (200, 100, 50), np.uint8)
    found = decode(encode(pixels, name, quality=95))
    assert (found.int() - as_tensor(pixels).int()).abs().max() <= 4


def test_large_texts_and_profiles_do_not_cost_a_png() -> None:
    """Programs that generate images store prompts and graphs of more than PIL's 1 MiB."""
    plain = encode(pattern(4, 5))
    packed = zlib.compress(bytes(3_000_000))
    for kind, content in ((b"zTXt", b"graph\0\0"), (b"iCCP", b"p\0\0")):
        for place in (33, plain.rindex(b"IEND") - 4)[: 1 if kind == b"iCCP" else 2]:
            chunk = png_chunk(kind, content + packed)
            found = decode(plain[:place] + chunk + plain[place:])
            assert torch.equal(found, as_tensor(pattern(4, 5)))


def test_200_megapixels_are_read_and_300_are_not() -> None:
    assert 200e6 < 2 * Image.MAX_IMAGE_PIXELS < 300e6  # type: ignore[operator]


def test_grey_of_16_bits_keeps_its_shades() -> None:
    """PIL's own conversion clips at 255 of 65,535: a photo turns white."""
    shades = np.array([[0, 255, 256, 32_768, 65_535]], np.uint16)
    for encoded in (encode(shades), encode(shades, "TIFF")):
        assert decode(encoded).tolist() == [[[0, 0, 1, 128, 255]]] * 3
        assert center(4, 4)(encoded, rng()).shape == (3, 4, 4)


def test_colour_of_16_bits_keeps_its_shades() -> None:
    rows = b"\0" + np.array([0, 256, 32_768, 65_535, 255, 0], ">u2").tobytes()
    assert decode(png(2, 1, 16, 2, rows)).tolist() == [[[0, 255]], [[1, 0]], [[128, 0]]]


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_exif_orientation_is_ignored_unless_asked_for(orientation: int, file_format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = pattern(8, 16)
    turned, plain = encode(pixels, file_format, exif=exif), encode(pixels, file_format)
    assert torch.equal(decode(turned), decode(plain))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(turned))).convert("RGB")
    assert torch.equal(decode(turned, exif_rotate=True), as_tensor(np.array(upright)))
    rotating = ImageTransform(8, 8, exif_rotate=True)
    assert torch.equal(rotating.pixels(turned), rotating.pixels(encode(upright, "PNG")))
    assert is_turned(turned) == (2 <= orientation <= 8)
    assert not is_turned(plain)


def test_damaged_exif_is_no_damaged_image() -> None:
    encoded = encode(pattern(8, 16), "JPEG", exif=b"Exif\0\0nonsense")
    assert torch.equal(decode(encoded, exif_rotate=True), decode(encoded))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
def test_a_cut_file_is_unreadable(file_format: str) -> None:
    encoded = image_bytes(40, 40, file_format=file_format)
    for size in (0, 1, 10, 60, len(encoded) // 2, len(encoded) - 60):
        with pytest.raises(UNREADABLE):
            decode(encoded[:size])


@pytest.mark.parametrize("encoded", [b"<html>not found</html>", b"\0" * 2000, b"\xff\xd8\xff"])
def test_what_is_no_image_is_unreadable(encoded: bytes) -> None:
    with pytest.raises(UNREADABLE):
        decode(encoded)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_changed_bytes_never_raise_anything_else(
    file_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)  # sizes are changed too
    encoded, random = image_bytes(24, 20, file_format=file_format), rng()
    unreadable = 0
    for _ in range(400):
        changed = bytearray(encoded)
        for _ in range(random.integers(1, 6)):
            changed[random.integers(min(len(changed), 200))] = random.integers(256)
        try:
            assert decode(bytes(changed)).dtype == torch.uint8
        except UNREADABLE:
            unreadable += 1
    assert 0 < unreadable < 400


def test_a_decompression_bomb_is_unreadable() -> None:
    """Pillow's own error for it is no OSError."""
    with pytest.raises(UNREADABLE, match="decompression bomb"):
        decode(png(20_000, 20_000, 8, 2, b""))


def test_a_very_large_image_is_read_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between 1 and 2 times Pillow's limit: it only warns, once for each size."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    encoded = encode(pattern(20, 20))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        images = [decode(encoded) for _ in range(5)]
    assert all(torch.equal(image, as_tensor(pattern(20, 20))) for image in images)
    assert [warning.category for warning in caught] == [Image.DecompressionBombWarning]
