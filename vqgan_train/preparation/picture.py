"""One picture on its way into a shard: its bytes stay as they are, and training can read them."""

import io
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from PIL import Image

from vqgan_train.data.transforms import decode, require_croppable

FIELDS = {
    "BMP": "bmp", "GIF": "gif", "JPEG": "jpg", "MPO": "jpg", "PNG": "png", "PPM": "ppm",
    "TIFF": "tif", "WEBP": "webp",
}  # fmt: skip
"""Of PIL's formats the field that shards have for it."""


class Picture(NamedTuple):
    """An image file and what belongs to it."""

    key: str
    """Names the sample; no dots."""

    encoded: bytes
    """The file."""

    caption: str | None
    """What it shows, in words."""

    metadata: Mapping[str, Any]
    """Goes into the json field, besides the picture's size."""


def sample_of(picture: Picture) -> dict[str, str | bytes]:
    """Make a sample of a picture; the field is what its bytes are, whatever it was called.

    Raises:
        Exception: one of data.pipeline.UNREADABLE; training could not read it either.
    """
    with Image.open(io.BytesIO(picture.encoded)) as opened:
        if opened.format not in FIELDS:
            raise ValueError(f"{opened.format} is no format that shards have a field for")
        field = FIELDS[opened.format]
    height, width = decode(picture.encoded).shape[1:]
    require_croppable(height, width)
    metadata = {**picture.metadata, "width": width, "height": height}
    sample: dict[str, str | bytes] = {
        "__key__": picture.key,
        field: picture.encoded,
        "json": json.dumps(metadata, ensure_ascii=False),
    }
    if picture.caption is not None:
        sample["txt"] = picture.caption
    return sample
