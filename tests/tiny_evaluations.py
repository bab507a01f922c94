"""Makes up an evaluation from a seed, to be written, read and drawn."""

from typing import Any

import numpy as np

from vqgan_train.evaluation.report.metric_names import FACE_METRICS, IMAGE_METRICS
from vqgan_train.evaluation.report.results import (
    ALL,
    FACE_BOXES,
    WITH_FACE,
    CheckpointResult,
    DatasetFacts,
    Difference,
    Evaluation,
    ImageTable,
    KeptPicture,
    LeftOut,
    SetDistance,
    Summary,
)
from vqgan_train.metrics.codebook import CodebookStatistics

NAMES = ("before", "after")


def tiny_evaluation(*, images: int = 6, codes: int = 16, side: int = 16) -> Evaluation:
    """Return results of two checkpoints: a face per odd image, a slice, an infinite PSNR."""
    random = np.random.default_rng(0)
    odd = np.arange(images) % 2 == 1
    faces = np.flatnonzero(odd)
    table = ImageTable(
        numbers=np.arange(images),
        keys=tuple(f"{row:06d}" for row in range(images)),
        captions=tuple(f'a "photo", number {row}\nof Zoë' for row in range(images)),
        sources=("00000.tar",) * images,
        widths=np.full(images, 640),
        heights=np.full(images, 480),
        face_images=faces,
        face_boxes=np.tile([[2, 3, 10, 12]], (len(faces), 1)),
        slices={"people": ~odd, WITH_FACE: odd},
    )
    summary = Summary(mean=0.5, low=0.4, high=0.6, count=images, num_infinite=0)
    groups = {ALL: IMAGE_METRICS, "people": IMAGE_METRICS, WITH_FACE: IMAGE_METRICS}
    summaries = {
        group: {metric: summary for metric in metrics if metric != "lpips_alex"}
        for group, metrics in groups.items()
    } | {FACE_BOXES: dict.fromkeys(FACE_METRICS, summary)}

    def checkpoint(name: str) -> CheckpointResult:
        values = {m: random.random(images) for m in IMAGE_METRICS if m != "lpips_alex"}
        values["psnr"][0] = np.inf
        face_values = {metric: random.random(len(faces)) for metric in FACE_METRICS}
        face_values["face_identity"][:1] = np.nan
        return CheckpointResult(
            name=name,
            source=f"runs/{name}.ckpt",
            weights_sha256="0" * 64,
            values=values,
            face_values=face_values,
            codebook=CodebookStatistics(
                usage=random.integers(0, 9, codes),
                codes_used=codes - 3,
                dead_codes=3,
                perplexity=8.5,
                entropy_bits=float(np.log2(8.5)),
                num_tokens=images,
                uniform_codes_used=5.1,
                uniform_perplexity=4.7,
            ),
            rfid={ALL: SetDistance(value=4.25, evaluator="torchmetrics 1.9", count=images)},
            summaries=summaries,
        )

    def pixels() -> Any:
        return random.integers(0, 256, (side, side, 3), dtype=np.uint8)

    return Evaluation(
        dataset=DatasetFacts(
            given=("photos/*.tar",),
            fingerprint="abc",
            num_images=images,
            unreadable=("00000.tar/x: cut off",),
            dead_shards=("00001.tar: no tar",),
            damaged_shards=("00002.tar: cut off at byte 9",),
            resize=side,
            image_size=side,
            pixel_range="signed",
            faces_looked_for=True,
        ),
        images=table,
        checkpoints=tuple(checkpoint(name) for name in NAMES),
        evaluators={"lpips_vgg": "LPIPS v0.1, VGG16"},
        differences=(
            Difference(
                before=NAMES[0],
                after=NAMES[1],
                group=ALL,
                metric="psnr",
                change=Summary(mean=0.2, low=0.1, high=0.3, count=images - 1, num_infinite=1),
                share_better=0.75,
            ),
        ),
        left_out=(LeftOut(metric="lpips_alex", reason="no weights"),),
        pictures=tuple(
            KeptPicture(
                row=row,
                reasons=reasons,
                original=pixels(),
                reconstructions={name: pixels() for name in NAMES},
            )
            for row, reasons in ((0, ("fixed", "worst lpips_vgg")), (1, ("face",)))
        ),
    )
