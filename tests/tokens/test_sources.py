from collections.abc import Iterator
from pathlib import Path

import pytest
from factories import image_bytes
from tiny_tokens import tiny_shards

from vqgan_train.tokens.loading import load_batches
from vqgan_train.tokens.places import FilePlace, Place
from vqgan_train.tokens.sources import Part, Source, from_shards


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_no_part_holds_samples_of_two_shards(tmp_path: Path) -> None:
    source = from_shards(tiny_shards(tmp_path), samples_per_file=4)
    assert source.sizes == [4, 1, 4, 4, 1, 3]
    names = source.part_names()
    assert names == ["001", "002", "003", "004", "005", "006"]
    parts = list(source.parts(set(names)))
    assert [len(part.places) for part in parts] == source.sizes
    keys = [place.read().key for part in parts for place in part.places]
    assert keys == [f"{number:06d}" for number in range(17)]
    wanted = list(source.parts({"003", "006"}))
    assert wanted == [parts[2], parts[5]]


def test_names_have_as_many_digits_as_the_last_one_needs() -> None:
    source = Source("", [1] * 1000, lambda: iter([]))
    assert [source.part_names()[n] for n in (0, 998, 999)] == ["0001", "0999", "1000"]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_parts_are_drawn_as_they_are_read_and_batches_stay_within_them(
    tmp_path: Path, num_workers: int
) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(image_bytes())
    drawn: list[int] = []

    def parts() -> Iterator[Part]:
        for number in range(30):
            drawn.append(number)
            places: list[Place] = [FilePlace(n, file, "a.png", "") for n in range(5)]
            yield Part(f"{number}", places)

    loader = load_batches(parts(), resize=16, image_size=16, batch_size=2, num_workers=num_workers)
    sizes = []
    for count, batch in enumerate(loader):
        sizes.append((batch.part, len(batch.labels), batch.is_last))
        batches_ahead = 2 * num_workers + 1
        assert len(drawn) <= (count + batches_ahead) // 3 + 1
    expected = [(2, False), (2, False), (1, True)]
    assert sizes == [(f"{n}", *own) for n in range(30) for own in expected]
