"""Selection of samples: reproducible, unbiased except for people, without duplicates."""

from typing import Any

import numpy as np
import pytest

from vqgan_train.preparation.sample_selection import (
    Selection,
    SourceCounts,
    SurveyedSource,
    select_samples,
    split_by_weight,
)
from vqgan_train.preparation.survey import BAD, GOOD, SMALL, Survey
from vqgan_train.system.errors import UserError


def source(
    name: str, digests: Any, *, weight: float = 1, states: Any = None, people: Any = None
) -> SurveyedSource:
    digests = np.asarray(digests, dtype=np.uint64)
    none = np.zeros(len(digests))
    return SurveyedSource(
        name,
        weight,
        Survey(
            digests,
            np.asarray(none if states is None else states, dtype=np.uint8),
            np.asarray(none if people is None else people, dtype=np.bool_),
            (),
        ),
    )


def select(sources: list[SurveyedSource], **changes: Any) -> Selection:
    request: dict[str, Any] = {"samples": 40, "val_samples": 10, "val_source": "b", "seed": 0}
    request |= {"people_multiplier": 1.0, "allow_fewer": False}
    return select_samples(sources, **request | changes)


def two_sources(**changes: Any) -> list[SurveyedSource]:
    return [source("a", np.arange(100)), source("b", np.arange(100, 200), **changes)]


def taken(selection: Selection) -> list[int]:
    return [*selection.training.tolist(), *selection.validation.tolist()]


def test_numbers_shares_and_sets_are_what_was_asked_for() -> None:
    selection = select(two_sources(weight=3))
    assert (len(selection.training), len(selection.validation)) == (40, 10)
    assert len(set(taken(selection))) == 50
    assert (selection.training < 100).sum() == 10
    assert (selection.validation >= 100).all()
    assert selection.counts["b"] == SourceCounts(
        held=100, unreadable=0, too_small=0, duplicates=0, usable=100, usable_people=0,
        validation=10, wanted=30, training=30, training_people=0,
    )  # fmt: skip


def test_the_same_seed_gives_the_same_and_another_another() -> None:
    first, again = (
        select(two_sources()),
        select(two_sources()),
    )
    other = select(two_sources(), seed=1)
    assert taken(first) == taken(again)
    assert set(first.training.tolist()) != set(other.training.tolist())
    assert set(first.validation.tolist()) != set(other.validation.tolist())


def test_samples_of_one_source_do_not_depend_on_another() -> None:
    more = [source("a", np.arange(1000, 1300)), source("b", np.arange(100, 200))]
    of_b = {n - 100 for n in select(two_sources()).training.tolist() if n >= 100}
    assert {n - 300 for n in select(more).training.tolist() if n >= 300} == of_b


def test_the_order_is_mixed() -> None:
    training = select(two_sources(), samples=160, val_samples=0).training
    from_a = training < 100
    assert 25 < from_a[:80].sum() < 55
    assert abs(np.corrcoef(np.arange(160), training)[0, 1]) < 0.3


def test_of_equal_images_only_the_first_is_usable() -> None:
    sources = [source("a", [7, 8, 7, 9]), source("b", [9, 10, 8, 11, 12, 10])]
    selection = select(sources, samples=6, val_samples=0)
    assert sorted(taken(selection)) == [0, 1, 3, 5, 7, 8]
    assert [count.duplicates for count in selection.counts.values()] == [1, 3]


def test_a_copy_of_an_unusable_image_is_no_duplicate() -> None:
    states = [SMALL, BAD, GOOD, GOOD]
    selection = select([source("b", [1, 2, 1, 2], states=states)], samples=2, val_samples=0)
    assert sorted(taken(selection)) == [2, 3]
    count = selection.counts["b"]
    assert (count.too_small, count.unreadable, count.duplicates) == (1, 1, 0)


def test_the_multiplier_prefers_people_in_training_only() -> None:
    people = np.arange(20_000) % 5 == 0
    sources = [source("b", np.arange(20_000), people=people)]
    plain = select(sources, samples=1000, val_samples=2000).counts["b"].training_people
    more = select(sources, samples=1000, val_samples=2000, people_multiplier=4.0)
    # 4 x 1/5 against 4/5: half; a little less, as the drawn ones are gone.
    assert 160 < plain < 240
    assert 440 < more.counts["b"].training_people < 540
    assert 340 < people[more.validation].sum() < 460


def test_every_sample_is_equally_likely() -> None:
    sources = [source("b", np.arange(10))]
    times = np.zeros(10)
    for seed in range(2000):
        times[select(sources, samples=3, val_samples=2, seed=seed).training] += 1
    assert np.abs(times / 2000 - 0.3).max() < 0.04


@pytest.mark.parametrize(
    ("weights", "samples", "expected"),
    [
        ([1, 1], 5, [3, 2]),
        ([1, 1, 1], 2, [1, 1, 0]),
        ([2, 1], 2_268_720, [1_512_480, 756_240]),
        ([0.1, 0.2], 3, [1, 2]),
    ],
)
def test_shares_add_up(weights: list[float], samples: int, expected: list[int]) -> None:
    found = split_by_weight(samples, weights)
    assert found == expected
    assert sum(found) == samples


def test_too_few_samples_are_an_error_with_numbers_unless_allowed() -> None:
    states = [BAD, SMALL, *[GOOD] * 98]
    digests = [100, 101, 102, 102, *range(104, 200)]
    sources = [source("a", np.arange(100)), source("b", digests, states=states)]
    with pytest.raises(UserError) as raised:
        select(sources, samples=180)
    assert str(raised.value).startswith(
        "The source b should give 90 samples for training, but has 87: it holds 100, of which "
        "1 are duplicates, 1 too small, 1 unreadable, 10 taken for validation."
    )
    assert "allow_fewer=true" in str(raised.value)
    selection = select(sources, samples=180, allow_fewer=True)
    assert [count.training for count in selection.counts.values()] == [90, 87]
    assert selection.counts["b"].wanted == 90


def test_too_few_samples_for_validation_are_an_error() -> None:
    with pytest.raises(UserError, match="b should give 101 samples for validation"):
        select(two_sources(), val_samples=101)


def test_no_training_sample_is_an_error_even_if_fewer_are_allowed() -> None:
    with pytest.raises(UserError, match="No usable sample is left"):
        select([source("b", [1], states=[BAD])], allow_fewer=True)
