import io
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken_shards import photo_bytes, write_broken_shards
from factories import image_bytes, image_samples, write_shard
from PIL import Image

from vqgan_train.images.decoding import decode
from vqgan_train.images.transforms import ImageTransform
from vqgan_train.preparation.check import shard_check as check_module
from vqgan_train.preparation.check.check_report import make_report, to_text
from vqgan_train.preparation.check.findings import Findings
from vqgan_train.preparation.check.shard_check import Kind, ShardFindings, check_shard
from vqgan_train.shards import index as index_module
from vqgan_train.shards.index import index_shard, index_shards
from vqgan_train.training.data.orders import SampleRef
from vqgan_train.training.data.pipeline import ShardDataset


def findings_of(paths: list[Path], image_size: int = 256) -> Findings:
    findings = Findings()
    for path in paths:
        findings.add(check_shard(path, image_size))
    findings.compare_shards()
    return findings


def write_images(path: Path, *encoded: bytes) -> Path:
    return write_shard(path, [{"__key__": f"{n}", "jpg": e} for n, e in enumerate(encoded)])


def names(findings: Findings | ShardFindings, kind: Kind) -> list[str]:
    """Examples without the folder of the test."""
    paths = (
        [shard.path for shard in findings.shards]
        if isinstance(findings, Findings)
        else [findings.path]
    )
    return [name.replace(f"{paths[0].parent}/", "") for name in findings.examples.get(kind, [])]


def kinds(shard: ShardFindings) -> dict[Kind, int]:
    return {kind: count for kind, count in shard.counts.items() if count}


@pytest.fixture
def broken(tmp_path: Path) -> list[Path]:
    return write_broken_shards(tmp_path)


EXPECTED: list[dict[Kind, int]] = [
    {},
    {Kind.unreadable: 3, Kind.without_image: 1, Kind.incomplete: 1},
    {Kind.several_images: 1, Kind.incomplete: 1, Kind.same_key: 1},
    {Kind.small: 1, Kind.unsafe_name: 1},
    {Kind.damaged: 1},
    {Kind.unusable: 1, Kind.without_image: 2},
    {Kind.unusable: 1},
]


def test_each_trouble_is_found_where_it_is_and_nothing_else(broken: list[Path]) -> None:
    found = [kinds(check_shard(path, 256)) for path in broken]
    assert found == EXPECTED


def test_reasons_are_those_of_training(broken: list[Path]) -> None:
    found = names(check_shard(broken[1], 256), Kind.unreadable)
    transform = ImageTransform(256, 256, random_crop=False, random_flip=False)
    data = ShardDataset([index_shard(broken[1])], transform, seed=0)
    samples = [data[SampleRef(0, number)] for number in range(len(data))]
    assert found == [sample.name for sample in samples if sample.image is None]


def test_shards_between_are_compared(broken: list[Path]) -> None:
    findings = findings_of(broken)
    assert names(findings, Kind.same_content) == [
        "00000.tar/000000000 = 00002.tar/000000000",
        "00000.tar/000000001 = 00002.tar/cat",
    ]
    assert names(findings, Kind.missing_number) == ["00005.tar"]
    assert findings.counts[Kind.same_content] == 2


def test_several_images_are_named_unless_one_is_chosen(broken: list[Path]) -> None:
    found = check_shard(broken[2], 256)
    assert names(found, Kind.several_images) == ["00002.tar/cat: v1.jpg, v2.jpg"]
    chosen = check_shard(broken[2], 256, image_field="v2.jpg")
    assert Kind.several_images not in chosen.counts
    assert "it has no field v2.jpg (image_field), but jpg" in names(chosen, Kind.unreadable)[0]


def test_real_photos_have_no_problems(photo_shards: list[Path]) -> None:
    report = make_report(findings_of(photo_shards), image_size=256)
    assert report["problems"] == {}
    assert report["readable_images"] == report["images"]


def test_photos_on_their_side_and_images_of_one_colour_are_counted(tmp_path: Path) -> None:
    """Both are notes: phones store photos so, and scans have white pages."""
    exif = Image.Exif()
    exif[0x0112] = 6
    encoded = io.BytesIO()
    Image.open(io.BytesIO(image_bytes(300, 280))).save(encoded, "JPEG", exif=exif)
    random = np.random.default_rng(0)
    white = io.BytesIO()
    Image.fromarray(random.integers(252, 256, (300, 300, 3), dtype=np.uint8)).save(white, "PNG")
    shard = write_images(tmp_path / "a.tar", encoded.getvalue(), white.getvalue())
    found = check_shard(shard, 256)
    assert names(found, Kind.turned) == ["a.tar/0"]
    assert names(found, Kind.plain) == ["a.tar/1"]
    assert kinds(found) == {Kind.turned: 1, Kind.plain: 1}
    assert not Kind.turned.is_problem
    assert not Kind.plain.is_problem


def test_shorter_sides_are_counted_in_classes(tmp_path: Path) -> None:
    sides = (1, 63, 64, 255, 256, 300, 383, 384, 2500)
    encoded = [image_bytes(side, min(40 * side, 2600), file_format="JPEG") for side in sides]
    found = check_shard(write_images(tmp_path / "a.tar", *encoded), 256)
    assert found.shorter_sides == {0: 2, 64: 1, 192: 1, 256: 3, 384: 1, 2048: 1}
    assert found.counts[Kind.small] == 4


def test_training_finds_the_index_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_shard(tmp_path / "a.tar", image_samples(3))
    expected = index_shard(path)
    check_shard(path, 16)

    def refuse(*_arguments: Any) -> Any:
        raise AssertionError("the tar was read")

    monkeypatch.setattr(index_module, "index_shard", refuse)
    (index,) = index_shards([path])
    assert index.starts.tolist() == expected.starts.tolist()
    assert index.ends.tolist() == expected.ends.tolist()


def test_a_folder_is_refused_by_name(tmp_path: Path) -> None:
    found = check_shard(tmp_path, 16)
    assert f"{tmp_path} cannot be read" in found.examples[Kind.unusable][0]


def test_a_shard_that_changes_during_the_check_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [write_images(tmp_path / f"{name}.tar", *[photo_bytes()] * 2) for name in "ab"]

    def changing(encoded: bytes) -> Any:
        paths[0].write_bytes(b"other")
        return decode(encoded)

    monkeypatch.setattr(check_module, "decode_for_training", changing)
    findings = findings_of(paths)
    assert findings.counts[Kind.unusable] == 1
    assert "a.tar has changed" in findings.examples[Kind.unusable][0]
    assert findings.shorter_sides == {256: 3}


def test_a_copy_in_a_shard_that_has_changed_has_no_name(tmp_path: Path) -> None:
    paths = [write_images(tmp_path / f"{name}.tar", photo_bytes()) for name in "ab"]
    findings = Findings()
    for path in paths:
        findings.add(check_shard(path, 256))
    paths[0].write_bytes(b"other")
    findings.compare_shards()
    assert names(findings, Kind.same_content) == ["a.tar/? = b.tar/0"]


@pytest.mark.parametrize(
    ("having", "lacking", "missed"), [(8, 2, 2), (7, 3, 0), (4, 1, 1), (10, 0, 0)]
)
def test_a_field_is_missed_if_most_neighbours_have_it(
    tmp_path: Path, having: int, lacking: int, missed: int
) -> None:
    samples = image_samples(having + lacking)
    for sample in samples[:lacking]:
        del sample["txt"]
    samples[-1]["jpg"] = samples[-1].pop("png")  # another kind of image misses nothing
    found = check_shard(write_shard(tmp_path / "a.tar", samples), 16)
    assert found.counts[Kind.incomplete] == missed


def test_interleaved_members_are_samples_without_image(tmp_path: Path) -> None:
    samples = image_samples(2)
    images = [{"__key__": s["__key__"], "png": s["png"]} for s in samples]
    captions = [{"__key__": s["__key__"], "txt": s["txt"]} for s in samples]
    found = check_shard(write_shard(tmp_path / "a.tar", [*images, *captions]), 16)
    assert kinds(found) == {Kind.without_image: 2, Kind.same_key: 2}


@pytest.mark.parametrize(
    ("name", "is_unsafe"),
    [
        ("/etc/passwd.jpg", True),
        ("../a.jpg", True),
        ("a/../../b.jpg", True),
        ("a\\b.jpg", True),
        ("a\nb.jpg", True),
        ("a\x1b[2Jb.jpg", True),
        ("a/b c.jpg", False),
        ("ä.jpg", False),
        ("..a/b.jpg", False),
    ],
)
def test_names_that_do_harm(tmp_path: Path, name: str, is_unsafe: bool) -> None:
    key, _, field = name.partition(".jpg")
    path = write_shard(tmp_path / "a.tar", [{"__key__": key, f"jpg{field}": image_bytes()}])
    found = findings_of([path, path], image_size=64)
    assert bool(found.counts[Kind.unsafe_name]) == is_unsafe
    assert {Kind.small, Kind.same_content} <= found.examples.keys()
    assert all(e.isprintable() for names in found.examples.values() for e in names)


def test_the_most_frequent_copies_come_first(tmp_path: Path) -> None:
    a, b, c = (photo_bytes(seed=seed) for seed in range(3))
    paths = [write_images(tmp_path / "x.tar", a, b, c), write_images(tmp_path / "y.tar", b, a, b)]
    paths += [write_images(tmp_path / "z.tar", *[b] * 9)]
    findings = findings_of(paths)
    assert findings.counts[Kind.same_content] == 12
    assert names(findings, Kind.same_content) == [
        "x.tar/1 = y.tar/0 = y.tar/2 = z.tar/0 and 8 more",
        "x.tar/0 = y.tar/1",
    ]


def test_images_that_cannot_be_read_are_no_copies(tmp_path: Path) -> None:
    findings = findings_of([write_images(tmp_path / "a.tar", b"x", b"x", photo_bytes())])
    assert findings.counts[Kind.same_content] == 0
    assert findings.counts[Kind.unreadable] == 2


@pytest.mark.parametrize(
    ("stems", "missing"),
    [
        (["00000", "00001", "00003"], ["00002.tar"]),
        (["a-7", "a-9", "b-1", "b-2"], ["a-8.tar"]),
        (["9", "11"], []),  # of another length
        (["20240101120000", "20250101120000"], []),
        (["train", "val"], []),
        (["a/00000", "b/00002"], []),
    ],
)
def test_missing_numbers(tmp_path: Path, stems: list[str], missing: list[str]) -> None:
    findings = Findings()
    for name in stems:
        findings.add(ShardFindings(tmp_path / f"{name}.tar"))
    findings.compare_shards()
    assert findings.counts[Kind.missing_number] == len(missing)
    assert names(findings, Kind.missing_number) == missing


def test_no_image_at_all_makes_a_report_too(broken: list[Path]) -> None:
    findings = findings_of(broken[-2:])
    report = make_report(findings, image_size=256)
    assert "samples     0 with an image" in to_text(report)


def test_memory_grows_by_bytes_a_sample(tmp_path: Path) -> None:
    """3 million samples of 10,000 a shard: 24 MB of hashes, and about 1 MB beside."""
    path = write_shard(tmp_path / "a.tar", image_samples(50))
    findings = Findings()

    def take_in(count: int) -> None:
        for _ in range(count):
            shard = check_shard(path, 16)
            shard.path = Path(f"{len(findings.shards):05d}.tar")
            findings.add(shard)

    def measure() -> tuple[float, int]:
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        take_in(25)
        after, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return (after - before) / 25, peak - after

    take_in(5)
    # Twice, because Python's table of interned strings (pathlib adds to it) doubles now and then.
    growth, beside = map(min, zip(measure(), measure(), strict=True))
    # 8 bytes per sample, and the objects of one shard's findings, 2.7 to 3.1 kB. Keys or names of
    # the samples would take 3 kB more.
    assert growth < 50 * 8 + 3800
    assert beside < 2_000_000


def test_examples_are_bounded(tmp_path: Path) -> None:
    path = write_images(tmp_path / "a.tar", *[b"no image"] * 50)
    findings = findings_of([path] * 3)
    assert findings.counts[Kind.unreadable] == 150
    assert len(findings.examples[Kind.unreadable]) == 60
