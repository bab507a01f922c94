"""The Frechet distance of two sets of features (Heusel et al. 2017), from sums alone.

Letters: N images, D features (2,048 of Inception).

Sums are float64 and D x D: no feature is kept, so 50,000 images need what 10 do, and sets can be
added, of batches as of ranks. torchmetrics does the same. Ours keeps the reference's sums once for
all checkpoints, and takes the root of a symmetric matrix, 2 s for 2,048 features where the
eigenvalues of a general one take 20 s.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class FeatureSums:
    """Sums over the features of a set of images; they stay on the CPU."""

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
        """(D,)."""
        return self.sums / self.count

    def covariance(self) -> Tensor:
        """(D, D), unbiased: of 2 images at least."""
        mean = self.mean()
        return (self.products - self.count * torch.outer(mean, mean)) / (self.count - 1)


def frechet_distance(one: FeatureSums, other: FeatureSums) -> float:
    """Return |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)); NaN with less than two images a set."""
    if min(one.count, other.count) < 2:
        return float("nan")
    first, second = one.covariance().numpy(), other.covariance().numpy()
    shift = (one.mean() - other.mean()).square().sum().item()
    # C1 C2 has the eigenvalues of the symmetric C1^(1/2) C2 C1^(1/2), which has none below 0 but
    # for rounding.
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    mixed = np.linalg.eigvalsh(root @ second @ root).clip(min=0)
    return float(shift + np.trace(first) + np.trace(second) - 2 * np.sqrt(mixed).sum())


DIGITS = 8
"""Of a hash in a name."""


class Evaluator(NamedTuple):
    """A network with its weights."""

    name: str
    """Library and network, and whose weights if not the published ones."""

    weights_sha256: str
    """Of the weights that were really used."""

    is_known: bool
    """Whether the name says which weights they are: the published ones, or those it mentions."""

    def __str__(self) -> str:
        """The name alone means weights that are known; no others go by it."""
        if self.is_known:
            return self.name
        digest = self.weights_sha256[:DIGITS]
        return f"{self.name} (weights sha256 {digest}..., not the published ones)"
