import io
import os
import re
import tarfile
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import image_bytes, image_samples, write_shard
from torch.utils.data import DataLoader

from vqgan_train.images.transforms import ImageTransform
from vqgan_train.shards.index import index_shard
from vqgan_train.shards.tar import IMAGE_FIELDS
from vqgan_train.training.data.orders import FullShuffle, SampleRef
from vqgan_train.training.data.pipeline import (
    PlannedBatches,
    Sample,
    ShardDataset,
    collate,
    collate_whole,
)

RANDOM = ImageTransform(18, 16, random_crop=True, random_flip=True)
CENTER = ImageTransform(16, 16, random_crop=False, random_flip=False)


@pytest.fixture
def data(tmp_path: Path) -> ShardDataset:
    """20 samples in shards of 9, 1 and 10."""
    bounds = [0, 9, 10, 20]
    shards = [
        write_shard(tmp_path / f"{first:02d}.tar", image_samples(last - first, first=first))
        for first, last in pairwise(bounds)
    ]
    return ShardDataset([index_shard(shard) for shard in shards], RANDOM, seed=0)


def dataset_of(path: Path, *encoded: bytes, transform: ImageTransform = CENTER) -> ShardDataset:
    samples = [{"__key__": f"{n}", "png": content} for n, content in enumerate(encoded)]
    return ShardDataset([index_shard(write_shard(path, samples))], transform, seed=0)


def load(data: ShardDataset, num_workers: int, **planned: Any) -> list[dict[str, Any]]:
    batches = PlannedBatches(FullShuffle(len(data), seed=3), **planned)
    loader = DataLoader(data, batch_sampler=batches, collate_fn=collate, num_workers=num_workers)
    return list(loader)


def test_reading_gives_the_very_bytes(data: ShardDataset) -> None:
    expected = image_samples(20)
    found = [shard.read(place) for shard in data.shards for place in range(len(shard.starts))]
    assert [{k: v for k, v in sample.items() if k != "__url__"} for sample in found] == expected


def test_a_draw_is_its_sample_transformed_by_a_generator_of_its_own(data: ShardDataset) -> None:
    assert len(data) == 20
    for number, sample in enumerate(image_samples(20)):
        name, image = data[SampleRef(2, number)]
        shard = "00.tar" if number < 9 else "09.tar" if number < 10 else "10.tar"
        assert name == f"{shard}/{number:06d}"
        expected = RANDOM.pixels(sample["png"], np.random.default_rng((0, 2, number)))
        assert image is not None
        assert torch.equal(image, expected)


def test_augmentation_changes_with_epoch_sample_and_seed(tmp_path: Path) -> None:
    transform = ImageTransform(60, 16, random_crop=True, random_flip=True)
    data = dataset_of(tmp_path / "a.tar", *[image_bytes(60, 60)] * 4, transform=transform)
    images = [data[SampleRef(epoch, number)].image for epoch in range(4) for number in range(4)]
    data.seed = 1
    images += [data[SampleRef(0, number)].image for number in range(4)]
    assert len({image.numpy().tobytes() for image in images if image is not None}) == 20


@pytest.mark.parametrize("fields", ["PNG png.txt jpg", "webp PNG", "json Png"])
def test_the_first_image_field_is_taken_whatever_its_case(tmp_path: Path, fields: str) -> None:
    contents = {name: image_bytes(16, 16, seed=seed) for seed, name in enumerate(fields.split())}
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:  # WebDataset's writer would sort them
        for name, content in contents.items():
            member = tarfile.TarInfo(f"a.{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    image = ShardDataset([index_shard(path)], CENTER, seed=0)[SampleRef(0, 0)].image
    first = next(name for name in contents if name.lower() in IMAGE_FIELDS)
    assert image is not None
    assert torch.equal(image, CENTER.pixels(contents[first]))


def test_unreadable_images_are_named_with_the_reason(tmp_path: Path) -> None:
    good = image_bytes(20, 20)
    line = image_bytes(1, 600)
    data = dataset_of(tmp_path / "a.tar", good, good[:-200], b"", b"<html>", line, good)
    batch = collate([data[SampleRef(0, number)] for number in range(6)])
    assert batch["name"] == ["a.tar/0", "a.tar/5"]
    assert batch["image"].shape == (2, 3, 16, 16)
    bad = [name.partition(": ") for name in batch["bad"]]
    assert [name for name, _, _ in bad] == ["a.tar/1", "a.tar/2", "a.tar/3", "a.tar/4"]
    assert all(reason for _, _, reason in bad)
    assert bad[3][2] == "600 x 1 pixels is too long to crop a square from"


def test_collating_keeps_images_and_names_together() -> None:
    images = [torch.full((3, 2, 2), number, dtype=torch.uint8) for number in range(3)]
    batch = collate([Sample("a", images[0]), Sample("b: bad", None), Sample("c", images[2])])
    assert batch["name"] == ["a", "c"]
    assert batch["bad"] == ["b: bad"]
    assert torch.equal(batch["image"], torch.stack([images[0], images[2]]))
    assert batch["image"].dtype == torch.uint8


def test_a_batch_with_nothing_good_is_empty_and_names_what_is_bad() -> None:
    batch = collate([Sample(f"{name}: bad", None) for name in "ab"])
    assert (len(batch["image"]), batch["name"], batch["bad"]) == (0, [], ["a: bad", "b: bad"])


@pytest.mark.parametrize(
    ("readable", "shown"), [("1111", "0123"), ("1101", "0130"), ("0100", "1111"), ("0110", "1212")]
)
def test_a_training_batch_keeps_its_size_by_repeating_what_can_be_read(
    readable: str, shown: str
) -> None:
    images = [torch.full((3, 8, 6), number, dtype=torch.uint8) for number in range(4)]
    samples = [
        Sample(str(number), image if flag == "1" else None)
        for number, (image, flag) in enumerate(zip(images, readable, strict=True))
    ]
    batch = collate_whole(samples, (8, 6))
    assert torch.equal(batch["image"], torch.stack([images[int(number)] for number in shown]))
    assert [len(batch["name"]), len(batch["bad"])] == [readable.count("1"), readable.count("0")]


def test_a_training_batch_without_a_readable_image_has_its_size_and_no_name() -> None:
    batch = collate_whole([Sample("a", None), Sample("b", None)], (8, 6))
    assert torch.equal(batch["image"], torch.zeros(2, 3, 8, 6, dtype=torch.uint8))
    assert (batch["name"], batch["bad"]) == ([], ["a", "b"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("cut", r"has changed since it was indexed"),
        ("other", r"has changed since it was indexed"),
        ("captions", r"it has no image any more"),
        ("gone", r"No such file"),
    ],
)
def test_a_shard_that_changes_under_a_run_loses_its_samples_by_name(
    tmp_path: Path, change: str, reason: str
) -> None:
    path = write_shard(tmp_path / "a.tar", image_samples(4))
    data = ShardDataset([index_shard(path)], CENTER, seed=0)
    if change == "cut":
        os.truncate(path, int(data.shards[0].starts[3]))
    elif change == "other":
        path.write_bytes(b"other".ljust(path.stat().st_size, b"."))
    elif change == "captions":
        start = int(data.shards[0].starts[3])
        captions = write_shard(tmp_path / "b.tar", [{"__key__": "3", "txt": b"no image"}])
        path.write_bytes(path.read_bytes()[:start] + captions.read_bytes())
        data.shards[0].ends[3] = path.stat().st_size
    else:
        path.unlink()
    name, image = data[SampleRef(0, 3)]
    assert image is None
    assert re.match(rf"a\.tar/.*: .*{reason}", name)


def test_batches_do_not_depend_on_the_number_of_workers(data: ShardDataset) -> None:
    planned = {"position": 7, "num_batches": 7, "batch_size": 4, "rank": 1, "world_size": 2}
    expected, *others = (load(data, num_workers, **planned) for num_workers in (0, 1, 2))
    assert len(expected) == 7
    for batches in others:
        assert [batch["name"] for batch in batches] == [batch["name"] for batch in expected]
        for batch, reference in zip(batches, expected, strict=True):
            assert torch.equal(batch["image"], reference["image"])


def test_an_epoch_of_ranks_and_workers_holds_each_sample_once(data: ShardDataset) -> None:
    ranks = [
        load(data, 2, position=0, num_batches=10, batch_size=3, rank=rank, world_size=2)
        for rank in range(2)
    ]
    names = [
        name for batches in zip(*ranks, strict=True) for batch in batches for name in batch["name"]
    ]
    assert len(names) == 60
    for epoch in range(3):
        assert len(set(names[20 * epoch : 20 * epoch + 20])) == 20
    assert set(Counter(names).values()) == {3}


def test_real_photos_fill_batches(photo_shards: list[Path]) -> None:
    transform = ImageTransform(64, 64, random_crop=False, random_flip=False)
    data = ShardDataset([index_shard(photo_shards[-1])], transform, seed=0)
    planned = {"position": 0, "num_batches": 2, "batch_size": 5, "rank": 0, "world_size": 1}
    for batch in load(data, 0, **planned):
        assert batch["image"].shape == (5, 3, 64, 64)
        assert batch["bad"] == []
        assert batch["image"].float().std() > 0.05 * 255
