import pytest
from tqdm import tqdm

from vqgan_train.images.bad_images import MAX_NAMED, BadImages, ChunkReport
from vqgan_train.system.errors import UserError

NOTHING = ChunkReport()


def batch(seen: int, bad: int) -> ChunkReport:
    return ChunkReport(seen, seen - bad, 0, [f"{number}.png: damaged" for number in range(bad)])


def test_a_fraction_stops_it_once_a_hundred_were_seen() -> None:
    with tqdm(disable=True) as bar:
        few = BadImages(NOTHING, 0.02, bar, "Fix it.")
        few.count(batch(10, 2))
        few.count(batch(90, 0))
        with pytest.raises(
            UserError, match=r"3 of 101 .*max_bad_fraction=0.02.*last: 0\.png: damaged\. Fix it\."
        ):
            few.count(batch(1, 1))
        with pytest.raises(UserError, match="1 of 1 images"):
            BadImages(NOTHING, 0, bar, "Fix it.").count(batch(1, 1))
        BadImages(NOTHING, 0, bar, "Fix it.").count(batch(100, 0))


def test_what_was_done_before_counts() -> None:
    with tqdm(disable=True) as bar:
        BadImages(batch(1000, 9), 0.01, bar, "Fix it.").count(batch(10, 1))
        with pytest.raises(UserError, match="11 of 1010 images"):
            BadImages(batch(1000, 10), 0.01, bar, "Fix it.").count(batch(10, 1))


def test_the_first_ones_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with tqdm(disable=True) as bar:
        bad = BadImages(NOTHING, 0.9, bar, "Fix it.")
        bad.count(batch(15, 15))
        bad.count(batch(15, 15))
    assert capsys.readouterr().err.count("cannot be read: ") == MAX_NAMED
