"""Random selection of training and validation samples, given surveys of all sources and a seed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vqgan_train.preparation.survey import BAD, GOOD, SMALL, Survey
from vqgan_train.system.errors import UserError

VALIDATION_STREAM = 0
ORDER_STREAM = 1
FIRST_SOURCE_STREAM = 2
"""Numbers of random streams: a source's random numbers do not depend on the data of others."""


@dataclass(frozen=True, slots=True)
class SurveyedSource:
    """A source of samples, with the survey of all its shards."""

    name: str
    weight: float
    """Share of the training samples, relative to the other sources' weights."""

    survey: Survey


@dataclass(slots=True)
class SourceCounts:
    """Numbers of samples in one source, and of those selected from it."""

    held: int
    unreadable: int
    too_small: int
    duplicates: int
    """Otherwise usable images that also occur earlier in this source, or in a source before it."""

    usable: int
    usable_people: int
    validation: int = 0
    wanted: int = 0
    """Training samples that the source should give."""

    training: int = 0
    training_people: int = 0


@dataclass(frozen=True, slots=True)
class Selection:
    """Selected samples in the order of writing, as numbers counted through all sources."""

    training: NDArray[np.int64]
    validation: NDArray[np.int64]
    counts: dict[str, SourceCounts]


def select_samples(
    sources: Sequence[SurveyedSource],
    *,
    samples: int,
    val_samples: int,
    val_source: str,
    people_multiplier: float,
    allow_fewer: bool,
    seed: int,
) -> Selection:
    """Select validation samples, then training samples from the rest; both in random order.

    Args:
        sources: where the samples are.
        samples: number of training samples.
        val_samples: number of validation samples.
        val_source: name of the source of all validation samples.
        people_multiplier: how many times as likely a training image of people is as another image.
        allow_fewer: whether a source with too few samples gives all it has, instead of an error.
        seed: seed of the selection and of the order.

    Raises:
        UserError: a source has too few samples (unless `allow_fewer`), or none is left to train on.
    """
    is_free, counts = _find_usable(sources)
    people = np.concatenate([source.survey.people for source in sources])
    owner = np.repeat(np.arange(len(sources)), [len(s.survey.states) for s in sources])
    names = [source.name for source in sources]

    def draw(number: int, wanted: int, multiplier: float, stream: int) -> NDArray[np.int64]:
        candidates = np.flatnonzero(is_free & (owner == number))
        if len(candidates) < wanted and not allow_fewer:
            purpose = "validation" if stream == VALIDATION_STREAM else "training"
            raise UserError(
                f"The source {names[number]} should give {wanted} samples for {purpose}, but has "
                f"{len(candidates)}: it holds {_held(counts[names[number]])}. Give it more shards, "
                f"ask for fewer (samples={samples}, val_samples={val_samples}), change the weights "
                "of the sources, or set allow_fewer=true to take all that is available."
            )
        weights = np.where(people[candidates], multiplier, 1.0)
        return _draw(candidates, weights, wanted, np.random.default_rng((seed, stream)))

    # People are not preferred here, so that validation represents the source.
    validation = draw(names.index(val_source), val_samples, 1.0, VALIDATION_STREAM)
    counts[val_source].validation = len(validation)
    is_free[validation] = False
    training = []
    shares = split_by_weight(samples, [source.weight for source in sources])
    for number, (name, share) in enumerate(zip(names, shares, strict=True)):
        drawn = draw(number, share, people_multiplier, FIRST_SOURCE_STREAM + number)
        counts[name].wanted = share
        counts[name].training = len(drawn)
        counts[name].training_people = int(people[drawn].sum())
        training.append(drawn)
    if not sum(map(len, training)):
        raise UserError("No usable sample is left for training. Lower min_side or val_samples.")
    order = np.random.default_rng((seed, ORDER_STREAM))
    return Selection(order.permutation(np.concatenate(training)), validation, counts)


def _find_usable(
    sources: Sequence[SurveyedSource],
) -> tuple[NDArray[np.bool_], dict[str, SourceCounts]]:
    """Mark each good image as usable unless an equal one precedes it; count samples by source."""
    states = np.concatenate([source.survey.states for source in sources])
    is_good = states == GOOD
    digests = np.concatenate([source.survey.digests for source in sources])
    good = np.flatnonzero(is_good)
    _, firsts = np.unique(digests[good], return_index=True)
    is_usable = np.zeros(len(states), dtype=np.bool_)
    is_usable[good[firsts]] = True
    counts = {}
    start = 0
    for source in sources:
        part = slice(start, start + len(source.survey.states))
        counts[source.name] = SourceCounts(
            held=len(source.survey.states),
            unreadable=int((states[part] == BAD).sum()),
            too_small=int((states[part] == SMALL).sum()),
            duplicates=int((is_good[part] & ~is_usable[part]).sum()),
            usable=int(is_usable[part].sum()),
            usable_people=int((is_usable[part] & source.survey.people).sum()),
        )
        start = part.stop
    return is_usable, counts


def split_by_weight(total: int, weights: Sequence[float]) -> list[int]:
    """Split a number into whole shares in proportion to weights (largest remainder method)."""
    exact = [total * weight / sum(weights) for weight in weights]
    shares = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda n: (shares[n] - exact[n], n))
    for number in by_remainder[: total - sum(shares)]:
        shares[number] += 1
    return shares


def _held(counts: SourceCounts) -> str:
    return (
        f"{counts.held}, of which {counts.duplicates} are duplicates, {counts.too_small} too "
        f"small, {counts.unreadable} unreadable, {counts.validation} taken for validation"
    )


def _draw(
    candidates: NDArray[np.int64],
    weights: NDArray[np.float64],
    count: int,
    random: np.random.Generator,
) -> NDArray[np.int64]:
    """Draw up to `count` by weight without replacement (Efraimidis and Spirakis, 2006)."""
    arrival = random.exponential(size=len(candidates)) / weights
    return candidates[np.argsort(arrival, kind="stable")[:count]]
