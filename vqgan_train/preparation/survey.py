"""Survey shards before a selection: which images are usable, are duplicates, or show people."""

import json
import logging
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from vqgan_train.images.sample import UNREADABLE, caption_of, content_hash, image_bytes, reason
from vqgan_train.images.transforms import decode_for_training
from vqgan_train.metrics.faces import find_faces, to_numpy
from vqgan_train.shards.index import ShardIndex
from vqgan_train.system.files import cache_folder, file_signature, fingerprint, write_atomically
from vqgan_train.system.workers import run_tasks

log = logging.getLogger(__name__)

GOOD, BAD, SMALL = range(3)
"""States of a sample: usable, unreadable, too small."""

FACE_SEARCH_SIDE = 500
"""Longer side in pixels to which larger images are scaled before the search for faces."""


@dataclass(frozen=True, slots=True)
class SurveyRules:
    """What a survey depends on besides the shard; part of the name of its cache file."""

    min_side: int
    """Smallest shorter side of a usable image, in pixels."""

    people_words: tuple[str, ...]
    """A caption that contains one of these words means that the image shows people."""

    detect_faces: bool
    """Whether a face found in the image also means that it shows people."""


class Survey(NamedTuple):
    """What is known about each sample of one or more shards, in their order."""

    digests: NDArray[np.uint64]
    """(N,) hash of the image file."""

    states: NDArray[np.uint8]
    """(N,) GOOD, BAD or SMALL."""

    people: NDArray[np.bool_]
    """(N,) whether the image is usable and shows people."""

    bad: tuple[str, ...]
    """Names of the unreadable samples, with the reason."""


def concat_surveys(surveys: Sequence[Survey]) -> Survey:
    """Concatenate the surveys of several shards."""
    return Survey(
        np.concatenate([survey.digests for survey in surveys]),
        np.concatenate([survey.states for survey in surveys]),
        np.concatenate([survey.people for survey in surveys]),
        tuple(name for survey in surveys for name in survey.bad),
    )


class _Task(NamedTuple):
    shard: ShardIndex
    rules: SurveyRules
    file: Path
    """Cache file of the survey."""


def survey_shards(
    shards: Sequence[ShardIndex],
    rules: SurveyRules,
    *,
    num_workers: int,
    bar: "tqdm[Any]",
) -> Iterator[Survey]:
    """Yield a survey per shard, from the cache if shard and rules have not changed.

    Args:
        shards: indices of the shards.
        rules: what to look for.
        num_workers: processes; 0 works in this one.
        bar: progress bar, advanced by the number of samples.
    """
    folder = cache_folder("survey")
    tasks = (_Task(shard, rules, folder / _file_name(shard.path, rules)) for shard in shards)
    for survey in run_tasks(_load_or_survey, tasks, num_workers=num_workers):
        bar.update(len(survey.states))
        yield survey


def _file_name(shard: Path, rules: SurveyRules) -> str:
    # Surveys of earlier versions looked for faces in photos that lie on their side.
    version = ["upright"] if rules.detect_faces else []
    return f"{fingerprint([file_signature(shard), json.dumps(asdict(rules)), *version])}.npz"


def _load_or_survey(task: _Task) -> Survey:
    stored = _stored(task.file)
    if stored is not None:
        return stored
    survey = survey_shard(task.shard, task.rules)
    try:
        with write_atomically(task.file) as partial:
            np.savez(partial, **{**survey._asdict(), "bad": np.array(json.dumps(survey.bad))})
    except OSError as error:
        log.warning("The survey of %s could not be cached: %s", task.shard.path, error)
    return survey


def _stored(file: Path) -> Survey | None:
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            bad = tuple(json.loads(str(arrays["bad"])))
            return Survey(arrays["digests"], arrays["states"], arrays["people"], bad)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # missing or damaged: the shard is surveyed again


def survey_shard(shard: ShardIndex, rules: SurveyRules) -> Survey:
    """Survey a shard from its file; turn images upright, because only so are faces found."""
    digests = np.zeros(shard.num_samples, dtype=np.uint64)
    states = np.zeros(shard.num_samples, dtype=np.uint8)
    people = np.zeros(shard.num_samples, dtype=np.bool_)
    bad = []
    shows_person = _person_detector(rules)
    for position in range(shard.num_samples):
        fields = shard.read(position)
        encoded = image_bytes(fields)
        digests[position] = content_hash(encoded)
        try:
            image = decode_for_training(encoded, exif_rotate=True)
        except UNREADABLE as error:
            states[position] = BAD
            bad.append(f"{shard.path.name}/{fields['__key__']}: {reason(error)}")
            continue
        if min(image.shape[1:]) < rules.min_side:
            states[position] = SMALL
            continue
        people[position] = shows_person(fields, image)
    return Survey(digests, states, people, tuple(bad))


def _person_detector(rules: SurveyRules) -> Callable[[dict[str, Any], Tensor], bool]:
    """Return a function that tells whether a sample with image (3, H, W) uint8 shows people."""
    words = word_pattern(rules.people_words)

    def shows_person(fields: dict[str, Any], image: Tensor) -> bool:
        if words.search(caption_of(fields)):
            return True
        return rules.detect_faces and len(find_faces(_scale_down(image))) > 0

    return shows_person


def word_pattern(words: Sequence[str]) -> re.Pattern[str]:
    """Compile a pattern that finds any of the words, whole and in any case.

    Without words, it matches nothing.
    """
    alternatives = "|".join(re.escape(word) for word in words)
    return re.compile(rf"\b(?:{alternatives})\b" if words else r"(?!)", re.IGNORECASE)


def _scale_down(image: Tensor) -> Tensor:
    picture = Image.fromarray(to_numpy(image))
    sides = (FACE_SEARCH_SIDE, FACE_SEARCH_SIDE)
    picture.thumbnail(sides, Image.Resampling.BILINEAR, reducing_gap=None)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)
