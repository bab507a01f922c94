"""Checks that all processes measure the same images with the same weights and settings.

Their machines may have different files under the same names, and the gathered numbers would then
mean nothing.
"""

import hashlib

from vqgan_train.evaluation.job import EvaluationJob
from vqgan_train.images.locations import FileLocation
from vqgan_train.images.sources import ImageSource
from vqgan_train.system.errors import UserError
from vqgan_train.system.launch import ProcessRank
from vqgan_train.system.process_group import all_gather_objects

DIGITS = 16
"""Digits of the compared and printed hashes."""


def require_same_job(job: EvaluationJob, process: ProcessRank) -> None:
    """Stop before the first image unless all processes have the same job.

    Raises:
        UserError: the jobs differ; the message names the differences and their ranks.
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
        raise UserError(
            "The processes of this evaluation have different inputs:\n"
            + "\n".join(differing)
            + "\nGive all machines the same files, settings and packages."
        )


def job_facts(job: EvaluationJob) -> dict[str, str]:
    """Describe, by name, all inputs that the processes must share, as texts to compare."""
    suite, rules = job.suite, job.rules
    transform, source = rules.transform, job.source
    rfid = () if suite.features is None else ("rfid",)
    found = {
        "metrics": ", ".join(sorted((*suite.images, *suite.face_names, *rfid))),
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
    evaluators = dict(suite.evaluators)
    if suite.features is not None:
        evaluators["rfid"] = suite.features.evaluator  # type: ignore[assignment]
    for metric, evaluator in evaluators.items():
        found[f"weights of {metric}"] = f"{evaluator.name}, {evaluator.weights_sha256[:DIGITS]}"
    return found


def images_fingerprint(source: ImageSource) -> str:
    """Return a fingerprint of the images that does not depend on their folder's path."""
    digest = hashlib.sha256()
    for place in source.locations():
        if not isinstance(place, FileLocation):
            return source.fingerprint
        size = place.path.stat().st_size if place.path.exists() else None
        digest.update(repr((place.source, size)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _by_rank(values: list[str]) -> list[str]:
    ranks: dict[str, list[str]] = {}
    for rank, value in enumerate(values):
        ranks.setdefault(value, []).append(str(rank))
    return [f"{value} on rank {', '.join(of_value)}" for value, of_value in ranks.items()]
