import io

import numpy as np
import pytest
import torch
from factories import image_bytes, tiny_images, tiny_vqgan
from PIL import Image
from torch import Tensor, nn

from vqgan_train.images.pixels import PIXEL_RANGES, to_model_input, to_numpy, to_pil
from vqgan_train.images.transforms import ImageTransform
from vqgan_train.models import VQGAN
from vqgan_train.system.errors import UserError


def picture(height: int = 20, width: int = 24, seed: int = 0) -> Image.Image:
    return Image.open(io.BytesIO(image_bytes(height, width, seed=seed)))


def test_pil_numpy_and_torch_give_the_same_images() -> None:
    opened = picture()
    array = np.asarray(opened)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    kinds = [opened, array, tensor, [opened], array[None], tensor[None], (tensor,)]
    for pixel_range, expected in {"signed": tensor / 127.5 - 1, "unit": tensor / 255}.items():
        for given in kinds:
            made = to_model_input(given, pixel_range=pixel_range)
            assert made.dtype == torch.float32
            assert torch.equal(made, expected[None])
    many = to_model_input([opened, array, tensor], pixel_range="unit")
    assert torch.equal(many, torch.stack([tensor / 255] * 3))


def test_grey_and_other_modes_become_rgb() -> None:
    grey = picture().convert("L")
    expected = to_model_input(grey, pixel_range="unit")
    assert expected.shape == (1, 3, 20, 24)
    assert torch.equal(to_model_input(np.asarray(grey), pixel_range="unit"), expected)
    assert to_model_input(picture().convert("RGBA"), pixel_range="unit").shape == (1, 3, 20, 24)


def test_resize_and_crop_are_those_of_training() -> None:
    transform = ImageTransform(16, 16, random_crop=False, random_flip=False)
    expected = transform(image_bytes(20, 26), np.random.default_rng(0))  # 16 x 21: an odd rest
    made = to_model_input(picture(20, 26), pixel_range="signed", image_size=16)
    assert torch.equal(made[0], expected)
    sizes = [picture(20, 25), picture(40, 20)]
    assert to_model_input(sizes, pixel_range="unit", image_size=16).shape == (2, 3, 16, 16)


def test_pictures_survive_the_way_there_and_back() -> None:
    array = np.asarray(picture())
    for pixel_range in ("signed", "unit"):
        images = to_model_input(array, pixel_range=pixel_range)
        for dtype in (torch.float32, torch.float64):
            assert np.array_equal(to_numpy(images.to(dtype), pixel_range=pixel_range)[0], array)
        (back,) = to_pil(images, pixel_range=pixel_range)
        assert np.array_equal(np.asarray(back), array)
    outside = torch.full((1, 3, 2, 2), 9.0)
    assert to_numpy(outside, pixel_range="unit").max() == 255
    assert to_numpy(-outside, pixel_range="signed").max() == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), r"Got shape \(4, 4, 3\) of float32, but numpy"),
        (np.zeros((3, 4, 4), np.uint8), "numpy arrays must be"),
        (torch.zeros(3, 4, 4), "Floats in the model's range need no conversion"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), "tensors must be"),
        ("photo.jpg", "PIL, numpy or torch, but got str"),
        ([picture(20, 24), picture(24, 20)], "got 20 x 24, 24 x 20"),
        ([], "got no picture"),
    ],
)
def test_what_is_no_picture_is_refused(given: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        to_model_input(given, pixel_range="signed")  # type: ignore[arg-type]


def test_an_unknown_pixel_range_is_refused() -> None:
    with pytest.raises(UserError, match="give one of signed, unit"):
        to_model_input(picture(), pixel_range="0-255")
    with pytest.raises(UserError, match="give one of signed, unit"):
        to_pil(tiny_images(), pixel_range="0-255")


EVERY_VALUE = torch.arange(256, dtype=torch.uint8)


@pytest.mark.parametrize(("name", "low"), [("signed", -1), ("unit", 0)])
def test_every_pixel_survives_and_the_ends_are_those_of_the_range(name: str, low: float) -> None:
    to_model, to_pixels = PIXEL_RANGES[name]
    values = to_model(EVERY_VALUE)
    assert values.dtype == torch.float32
    assert (values.min(), values.max()) == (low, 1)
    assert torch.equal(to_pixels(values), EVERY_VALUE)
    assert to_pixels(torch.tensor([low - 5.0, 5.0])).tolist() == [0, 255]


def test_the_arithmetic_is_the_originals_and_that_of_dalle_mini() -> None:
    # taming's ImagePaths, and torchvision's ToTensor: to the bit.
    assert torch.equal(PIXEL_RANGES["signed"].to_model(EVERY_VALUE), EVERY_VALUE / 127.5 - 1)
    assert torch.equal(PIXEL_RANGES["unit"].to_model(EVERY_VALUE), EVERY_VALUE / 255)


# What a user does with a model.


@pytest.fixture(scope="module")
def model() -> VQGAN:
    return tiny_vqgan().eval()


@torch.no_grad()
def test_reconstruct_is_encode_and_decode_of_any_shape(model: VQGAN) -> None:
    images = tiny_images(2, 32, 48).requires_grad_()
    made = model.reconstruct(images)
    assert torch.equal(made, model.decode(model.encode(images), (16, 24)))
    assert made.shape == images.shape
    with torch.enable_grad():
        assert not model.reconstruct(images).requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@torch.no_grad()
def test_a_model_of_another_dtype_takes_the_same_images(model: VQGAN, dtype: torch.dtype) -> None:
    images = tiny_images(2, 32, 48)
    moved = tiny_vqgan().eval().to(dtype)
    tokens = moved.encode(images)
    least_equal = {torch.float16: 0.99, torch.bfloat16: 0.95, torch.float64: 1}[dtype]
    assert (tokens == model.encode(images)).float().mean() >= least_equal
    made = moved.reconstruct(images)
    assert made.dtype == dtype
    decoded = model.decode(tokens, (16, 24))
    assert (made.float() - decoded).abs().mean() < 0.02 * decoded.abs().mean()


def test_a_model_on_another_device_takes_the_same_images(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = tiny_vqgan().eval().to("meta")

    def nearest(latents: Tensor) -> Tensor:  # meta has no autocast
        return latents.new_zeros((2, 256), dtype=torch.int64)

    monkeypatch.setattr(moved.quantizer, "nearest", nearest)
    assert moved.encode(tiny_images()).device.type == "meta"
    assert moved.reconstruct(tiny_images()).device.type == "meta"
    assert moved.decode(torch.zeros(2, 256, dtype=torch.int64)).device.type == "meta"


def plain_vqgan() -> VQGAN:
    """One level without attention: what takes the compiler least time."""
    return tiny_vqgan(channel_multipliers=[1], attention_resolutions=[]).eval()


@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0")
@torch.no_grad()
def test_encode_and_decode_compile_into_one_graph() -> None:
    assert_compiles(plain_vqgan(), tiny_images(2, 8, 8), backend="eager")


@pytest.mark.slow
@torch.no_grad()
def test_encode_and_decode_compile_to_machine_code() -> None:
    assert_compiles(plain_vqgan(), tiny_images(1, 8, 8), backend="inductor")


def assert_compiles(model: VQGAN, images: Tensor, backend: str) -> None:
    encode, decode = (
        torch.compile(method, fullgraph=True, backend=backend)
        for method in (model.encode, model.decode)
    )
    tokens = model.encode(images)
    assert torch.equal(encode(images), tokens)
    assert (decode(tokens) - model.decode(tokens)).abs().max() < 1e-4


class Encoder(nn.Module):
    def __init__(self, model: VQGAN) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.encode(images)


class Decoder(Encoder):
    def forward(self, tokens: Tensor) -> Tensor:
        return self.model.decode(tokens)


@torch.no_grad()
def test_encode_and_decode_export_with_any_number_of_images(model: VQGAN) -> None:
    images = tiny_images(5, 16, 16)
    tokens = model.encode(images)
    any_batch = ({0: torch.export.Dim.DYNAMIC},)
    for module, given, expected in (
        (Encoder(model), images, tokens),
        (Decoder(model), tokens, model.decode(tokens)),
    ):
        exported = torch.export.export(module, (given[:2],), dynamic_shapes=any_batch)
        file = io.BytesIO()
        torch.export.save(exported, file)
        file.seek(0)
        made = torch.export.load(file).module()(given)
        assert torch.allclose(made, expected, atol=1e-5)
