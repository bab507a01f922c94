"""Which pictures show people: by the words of the caption, or by a face detector."""

import hashlib
import importlib.util
import json
import logging
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from vqgan_train.images.sample import UNREADABLE, image_bytes, reason
from vqgan_train.images.transforms import decode, require_croppable
from vqgan_train.shards.index import ShardIndex
from vqgan_train.system.errors import PreparationError
from vqgan_train.system.files import cache_folder, file_signature, fingerprint, write_atomically
from vqgan_train.system.workers import run_tasks

LONGER_SIDE = 500
"""Pixels to which an image is scaled before faces are looked for."""

UPSAMPLING = 1
"""Doublings for the detector, whose faces have 80 pixels: so they are found from 40 pixels on."""


def word_pattern(words: Sequence[str]) -> re.Pattern[str]:
    """What finds one of the words, whole and in any case. No words: nothing is found."""
    alternatives = "|".join(re.escape(word) for word in words)
    return re.compile(rf"\b(?:{alternatives})\b" if words else r"(?!)", re.IGNORECASE)


def require_face_detector() -> None:
    """Refuse to look for faces where there is no detector.

    Raises:
        PreparationError: dlib is not installed.
    """
    if importlib.util.find_spec("dlib") is None:
        raise PreparationError(
            "people.detect_faces needs dlib, which is not installed: "
            "pip install 'vqgan_train[faces]'. Or set people.detect_faces=false."
        )


def face_counter() -> Callable[[NDArray[np.uint8]], int]:
    """Make what counts the frontal faces in an image (H, W, 3) uint8."""
    import dlib

    detector: Any = dlib.get_frontal_face_detector()

    def count(image: NDArray[np.uint8]) -> int:
        return len(detector(_reduced(image), UPSAMPLING))

    return count


def _reduced(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    scale = LONGER_SIDE / max(height, width)
    if scale >= 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


log = logging.getLogger(__name__)

DIGEST_BYTES = 8
"""Of 20 million images two different ones have the same digest in one case of 90,000."""

GOOD, BAD, SMALL = range(3)
"""States of a sample: usable, unreadable, too small."""


@dataclass(frozen=True, slots=True)
class SurveyRules:
    """What to look for."""

    min_side: int
    """Shorter side that an image must have, in pixels."""

    people_words: tuple[str, ...]
    detect_faces: bool


class Survey(NamedTuple):
    """One shard's samples."""

    digests: NDArray[np.uint64]
    """(N,) hash of the image's bytes."""

    states: NDArray[np.uint8]
    """(N,) GOOD, BAD or SMALL."""

    people: NDArray[np.bool_]
    """(N,) whether a person is shown."""

    bad: tuple[str, ...]
    """Names of the unreadable ones, with the reason."""


def joined(surveys: Sequence[Survey]) -> Survey:
    """Surveys of several shards as one."""
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


def survey_shards(
    shards: Sequence[ShardIndex],
    rules: SurveyRules,
    *,
    num_workers: int,
    bar: "tqdm[Any]",
) -> Iterator[Survey]:
    """Survey shards, in their order, or read from the cache what was found before."""
    tasks = (
        _Task(shard, rules, cache_folder("survey") / _file_name(shard.path, rules))
        for shard in shards
    )
    return run_tasks(
        _survey,
        tasks,
        stored=lambda task: _stored(task.file),
        num_workers=num_workers,
        bar=bar,
        size_of=lambda survey: len(survey.states),
    )


def _file_name(shard: Path, rules: SurveyRules) -> str:
    return f"{fingerprint([file_signature(shard), json.dumps(asdict(rules))])}.npz"


def _survey(task: _Task) -> Survey:
    survey = survey_shard(task.shard, task.rules)
    _store(survey, task.file)
    return survey


def _store(survey: Survey, file: Path) -> None:
    try:
        with write_atomically(file) as partial:
            np.savez(partial, **{**survey._asdict(), "bad": np.array(json.dumps(survey.bad))})
    except OSError as error:
        log.warning("A survey could not be kept at %s: %s", file, error)


def _stored(file: Path) -> Survey | None:
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            bad = tuple(json.loads(str(arrays["bad"])))
            return Survey(arrays["digests"], arrays["states"], arrays["people"], bad)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # made again


def survey_shard(shard: ShardIndex, rules: SurveyRules) -> Survey:
    """Read every sample of a shard once, and decode its image as training will."""
    count = len(shard.starts)
    digests = np.zeros(count, dtype=np.uint64)
    states = np.zeros(count, dtype=np.uint8)
    people = np.zeros(count, dtype=np.bool_)
    bad = []
    shows_person = _person_finder(rules)
    for place in range(count):
        fields = shard.read(place)
        encoded = image_bytes(fields)
        digest = hashlib.blake2b(encoded, digest_size=DIGEST_BYTES).digest()
        digests[place] = int.from_bytes(digest, "little")
        try:
            image = decode(encoded)
            require_croppable(image.shape[1], image.shape[2])
        except UNREADABLE as error:
            states[place] = BAD
            bad.append(f"{shard.path.name}/{fields['__key__']}: {reason(error)}")
            continue
        if min(image.shape[1:]) < rules.min_side:
            states[place] = SMALL
            continue
        people[place] = shows_person(fields, image.permute(1, 2, 0).contiguous().numpy())
    return Survey(digests, states, people, tuple(bad))


def _person_finder(
    rules: SurveyRules,
) -> Callable[[dict[str, Any], NDArray[np.uint8]], bool]:
    words = word_pattern(rules.people_words)
    count_faces = face_counter() if rules.detect_faces else lambda _: 0

    def shows_person(fields: dict[str, Any], image: NDArray[np.uint8]) -> bool:
        caption = fields.get("txt", b"").decode("utf-8", "replace")
        return bool(words.search(caption)) or count_faces(image) > 0

    return shows_person
