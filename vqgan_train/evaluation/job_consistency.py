"""Processes that evaluate together measure the same images, with the same weights, or not at all.

Their machines may have other files under the same names, and what they find would be merged into
numbers of nothing.
"""

import hashlib
from collections.abc import Iterable

from vqgan_train.evaluation.job import EvaluationJob
from vqgan_train.images.locations import FileLocation, ImageLocation
from vqgan_train.images.sources import ImageSource
from vqgan_train.system.errors import TokenError
from vqgan_train.system.launch import ProcessRank
from vqgan_train.system.process_group import all_gather_objects

DIGITS = 16
"""Of hashes that are compared, and shown."""


def require_same_job(job: EvaluationJob, process: ProcessRank) -> None:
    """Stop before hours are spent if processes measure different things.

    Raises:
        TokenError: they do; it names what differs, and on which of them.
    """
    if process.world_size == 1:
        return
    of_all = all_gather_objects(job_facts(job), process)
    names = dict.fromkeys(name for facts in of_all for name in facts)
    differing = [
        f"  {name}: {'; '.join(_by_rank([facts.get(name, 'none') for facts in of_all]))}"
        for name in names
        if len({facts.get(name) for facts in of_all}) > 1
    ]
    if differing:
        raise TokenError(
            "The processes would not measure the same:\n"
            + "\n".join(differing)
            + "\nGive all machines the same files, settings and packages."
        )


def job_facts(job: EvaluationJob) -> dict[str, str]:
    """All that decides the numbers, in words, by what it is of."""
    instruments, rules = job.instruments, job.rules
    transform, source = rules.transform, job.source
    faces = instruments.faces.names if instruments.faces else ()
    rfid = () if instruments.features is None else ("rfid",)
    found = {
        "metrics": ", ".join(sorted((*instruments.images, *faces, *rfid))),
        "images": f"{sum(source.sizes):,}, fingerprint {images_fingerprint(source)[:DIGITS]}",
        "batches": f"{len(source.sizes):,} of {max(source.sizes)}",
        "sizes": f"resize {transform.resize}, image_size {transform.image_size}",
        "pixel_range": job.pixel_range,
        "faces.detect": str(rules.faces is not None),
    }
    for name, rule in rules.slices.items():
        found[f"slice {name}"] = f"{rule.column} has {rule.pattern.pattern}"
    for checkpoint in job.checkpoints:
        tokenizer = checkpoint.tokenizer
        weights = f"weights {tokenizer.weights_sha256[:DIGITS]}"
        found[f"checkpoint {checkpoint.name}"] = f"{weights} in {tokenizer.precision}"
    evaluators = dict(instruments.evaluators)
    if instruments.features is not None:
        evaluators["rfid"] = instruments.features.evaluator  # type: ignore[assignment]
    for metric, evaluator in evaluators.items():
        found[f"weights of {metric}"] = f"{evaluator.name}, {evaluator.weights_sha256[:DIGITS]}"
    return found


def images_fingerprint(source: ImageSource) -> str:
    """Changes when the images do, but not with the folder that they are in on this machine."""
    first = next(source.locations(), None)
    return _of_files(source.locations()) if isinstance(first, FileLocation) else source.fingerprint


def _of_files(places: Iterable[ImageLocation]) -> str:
    digest = hashlib.sha256()
    for place in places:
        if isinstance(place, FileLocation):
            size = place.path.stat().st_size if place.path.exists() else None
            digest.update(repr((place.source, size)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _by_rank(values: list[str]) -> list[str]:
    ranks: dict[str, list[str]] = {}
    for rank, value in enumerate(values):
        ranks.setdefault(value, []).append(str(rank))
    return [f"{value} on rank {', '.join(own)}" for value, own in ranks.items()]
