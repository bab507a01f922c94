"""Which samples to take: a pure function of what the surveys say and a seed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vqgan_train.preparation.survey import BAD, GOOD, SMALL, Survey
from vqgan_train.system.errors import PreparationError

VALIDATION_STREAM = 0
ORDER_STREAM = 1
FIRST_SOURCE_STREAM = 2
"""Each draw has random numbers of its own, so that one source does not change another's."""


@dataclass(frozen=True, slots=True)
class Source:
    """All samples of one source, in the order of its shards."""

    name: str
    weight: float
    """Its share of the training samples, relative to the other sources' weights."""

    survey: Survey


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What to choose."""

    samples: int
    val_samples: int
    val_source: str
    people_multiplier: float
    """How many times as likely a picture of people is drawn."""

    allow_fewer: bool
    seed: int


@dataclass(slots=True)
class SourceCounts:
    """What a source held and what was taken of it."""

    held: int
    unreadable: int
    too_small: int
    duplicates: int
    """Images that an earlier sample, of this source or one before it, has too."""

    usable: int
    usable_people: int
    validation: int = 0
    wanted: int = 0
    training: int = 0
    training_people: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen: samples numbered through all sources, in the order of the shards to be."""

    training: NDArray[np.int64]
    validation: NDArray[np.int64]
    counts: dict[str, SourceCounts]


def choose(sources: Sequence[Source], wanted: Wanted) -> Choice:
    """Draw validation, then each source's share of training; shuffle both.

    Raises:
        PreparationError: a source does not hold its share, and fewer are not allowed.
    """
    usable, counts = _usable(sources)
    people = np.concatenate([source.survey.people for source in sources])
    owner = np.repeat(np.arange(len(sources)), [len(s.survey.states) for s in sources])
    names = [source.name for source in sources]

    candidates = np.flatnonzero(usable & (owner == names.index(wanted.val_source)))
    _require(
        len(candidates),
        wanted.val_samples,
        wanted.val_source,
        "validation",
        wanted,
        counts[wanted.val_source],
    )
    # Without the multiplier: validation judges what the source is, not what it was made to be.
    validation = _draw(
        candidates, np.ones(len(candidates)), wanted.val_samples, wanted.seed, VALIDATION_STREAM
    )
    counts[wanted.val_source].validation = len(validation)
    usable[validation] = False

    parts = []
    for number, (source, share) in enumerate(
        zip(sources, shares(sources, wanted.samples), strict=True)
    ):
        candidates = np.flatnonzero(usable & (owner == number))
        _require(len(candidates), share, source.name, "training", wanted, counts[source.name])
        weights = np.where(people[candidates], wanted.people_multiplier, 1.0)
        part = _draw(candidates, weights, share, wanted.seed, FIRST_SOURCE_STREAM + number)
        counts[source.name].wanted = share
        counts[source.name].training = len(part)
        counts[source.name].training_people = int(people[part].sum())
        parts.append(part)
    if not sum(map(len, parts)):
        raise PreparationError("No source holds a usable sample for training.")
    order = np.random.default_rng((wanted.seed, ORDER_STREAM))
    return Choice(order.permutation(np.concatenate(parts)), validation, counts)


def _usable(sources: Sequence[Source]) -> tuple[NDArray[np.bool_], dict[str, SourceCounts]]:
    states = np.concatenate([source.survey.states for source in sources])
    good = states == GOOD
    digests = np.concatenate([source.survey.digests for source in sources])
    places = np.flatnonzero(good)
    _, firsts = np.unique(digests[places], return_index=True)
    usable = np.zeros(len(states), dtype=np.bool_)
    usable[places[firsts]] = True
    counts = {}
    start = 0
    for source in sources:
        end = start + len(source.survey.states)
        own = usable[start:end]
        counts[source.name] = SourceCounts(
            held=end - start,
            unreadable=int((states[start:end] == BAD).sum()),
            too_small=int((states[start:end] == SMALL).sum()),
            duplicates=int((good[start:end] & ~own).sum()),
            usable=int(own.sum()),
            usable_people=int((own & source.survey.people).sum()),
        )
        start = end
    return usable, counts


def shares(sources: Sequence[Source], samples: int) -> list[int]:
    """Split a number by the sources' weights, and what rounding leaves by largest remainder."""
    total = sum(source.weight for source in sources)
    exact = [samples * source.weight / total for source in sources]
    whole = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda n: (whole[n] - exact[n], n))
    for number in by_remainder[: samples - sum(whole)]:
        whole[number] += 1
    return whole


def _require(
    free: int, asked: int, source: str, purpose: str, wanted: Wanted, count: SourceCounts
) -> None:
    if free >= asked or wanted.allow_fewer:
        return
    raise PreparationError(
        f"The source {source} should give {asked} samples for {purpose} and has {free}: it holds "
        f"{count.held}, of which {count.duplicates} are duplicates, {count.too_small} too small, "
        f"{count.unreadable} unreadable, {count.validation} taken for validation. "
        "Give it more shards, ask for fewer (samples={wanted.samples}, "
        f"val_samples={wanted.val_samples}), change the weights of the sources, or set "
        "allow_fewer=true to take what there is."
    )


def _draw(
    candidates: NDArray[np.int64],
    weights: NDArray[np.float64],
    count: int,
    seed: int,
    stream: int,
) -> NDArray[np.int64]:
    """Draw by weight without replacement (Efraimidis and Spirakis, 2006)."""
    arrival = np.random.default_rng((seed, stream)).exponential(size=len(candidates)) / weights
    return candidates[np.argsort(arrival, kind="stable")[:count]]
