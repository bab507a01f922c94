"""Compare a file's weights with a model's, check that they are finite, and hash them."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vqgan_train.checkpoint.unpickling import printable_text
from vqgan_train.checkpoint.weight_names import to_original
from vqgan_train.system.errors import CheckpointError


def require_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    """Raise an error if a weight is not finite.

    Raises:
        CheckpointError: a weight holds NaN or infinite values; the message names the first.
    """
    non_finite = [name for name, weight in weights.items() if not weight.isfinite().all()]
    if non_finite:
        raise CheckpointError(
            f"{path} has NaN or infinite values in {len(non_finite)} of its {len(weights)} weights;"
            f" the first is {non_finite[0]}. Training probably diverged; use an earlier checkpoint."
        )


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """Return a SHA-256, as 64 hexadecimal digits, of weights on the CPU.

    It covers names, dtypes, shapes and values, so that it is the same for every file format.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        digest.update(weight.detach().contiguous().numpy().data)
    return digest.hexdigest()


WEIGHT_GROUPS = {
    "encoder": ("generator.encoder.", "generator.quant_conv."),
    "decoder": ("generator.decoder.", "generator.post_quant_conv."),
    "codebook": ("generator.quantizer.",),
    "discriminator": ("discriminator.",),
}
"""Prefixes of our weight names, by the group of weights that they belong to."""

MAX_NAMES_SHOWN = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightGroupReport:
    """Comparison of one group's weights in a file and a model; names are taming's."""

    loaded: tuple[str, ...]
    """Weights that file and model have in the same shape."""

    missing: tuple[str, ...]
    """Weights of the model that the file lacks."""

    unexpected: tuple[str, ...]
    """Weights of the file that the model lacks."""

    mismatched: tuple[str, ...]
    """Descriptions of weights whose shapes differ, with both shapes."""

    @property
    def fits(self) -> bool:
        """Whether file and model have the same weights, with the same shapes."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        problems = {name: getattr(self, name) for name in ("missing", "unexpected", "mismatched")}
        described = [
            f"{len(names)} {kind} ({_first_names(names)})"
            for kind, names in problems.items()
            if names
        ]
        return ", ".join([f"{len(self.loaded)} loaded", *described])


@dataclass(frozen=True, slots=True)
class LoadReport:
    """Comparison of a file's weights with a model's, by group of weights."""

    groups: Mapping[str, WeightGroupReport]
    """Reports of those `WEIGHT_GROUPS` that the model has."""

    @classmethod
    def compare(cls, expected: Mapping[str, Tensor], actual: Mapping[str, Tensor]) -> "LoadReport":
        """Compare names and shapes of weights.

        Args:
            expected: the model's weights under our names.
            actual: the file's weights under our names.
        """
        groups = {}
        for group, prefixes in WEIGHT_GROUPS.items():
            in_model = {name: w for name, w in expected.items() if name.startswith(prefixes)}
            in_file = {name: w for name, w in actual.items() if name.startswith(prefixes)}
            if in_model:
                groups[group] = _compare_group(in_model, in_file)
        return cls(groups)

    @property
    def discriminator_is_new(self) -> bool:
        """Whether the model has a discriminator and the file has no weight of one."""
        group = self.groups.get("discriminator")
        return group is not None and not (group.loaded or group.unexpected or group.mismatched)

    @property
    def fits(self) -> bool:
        """Whether all groups fit; the file may lack the whole discriminator."""
        return all(
            group.fits or (name == "discriminator" and self.discriminator_is_new)
            for name, group in self.groups.items()
        )

    def require_fit(self, path: Path, advice: str) -> None:
        """Raise unless every weight matches the model; see `fits`.

        Args:
            path: the file, for the message.
            advice: likely cause and remedy, for the message.

        Raises:
            CheckpointError: weights are missing, unexpected or of another shape.
        """
        if not self.fits:
            raise CheckpointError(f"{path} does not fit the model. {advice}\n{self}")

    def __str__(self) -> str:
        lines = {name: str(group) for name, group in self.groups.items()}
        if self.discriminator_is_new:
            lines["discriminator"] = "none in the file"
        return "\n".join(f"  {name:13} {line}" for name, line in lines.items())


def require_generator(
    expected: Mapping[str, Tensor], actual: Mapping[str, Tensor], path: Path
) -> None:
    """Raise unless a file's tokenizer has exactly the weights of a model.

    Args:
        expected: the model's weights, under our names without the leading `generator.`.
        actual: the file's weights, named in the same way.
        path: the file, for the message.

    Raises:
        CheckpointError: weights are missing, unexpected or of another shape.
    """
    report = LoadReport.compare(
        {f"generator.{name}": weight for name, weight in expected.items()},
        {f"generator.{name}": weight for name, weight in actual.items()},
    )
    report.require_fit(path, "It lacks weights of a tokenizer, or mixes those of several models.")


def _compare_group(
    in_model: Mapping[str, Tensor], in_file: Mapping[str, Tensor]
) -> WeightGroupReport:
    common = [name for name in in_model if name in in_file]
    same_shape = {name for name in common if in_model[name].shape == in_file[name].shape}
    return WeightGroupReport(
        loaded=tuple(_original_name(name) for name in common if name in same_shape),
        missing=tuple(_original_name(name) for name in in_model if name not in in_file),
        unexpected=tuple(_original_name(name) for name in in_file if name not in in_model),
        mismatched=tuple(
            f"{_original_name(name)} is {tuple(in_file[name].shape)}, "
            f"not {tuple(in_model[name].shape)}"
            for name in common
            if name not in same_shape
        ),
    )


def _original_name(name: str) -> str:
    return next(iter(to_original({name: torch.empty(0)})))


def _first_names(names: tuple[str, ...]) -> str:
    more = ", ..." if len(names) > MAX_NAMES_SHOWN else ""
    return ", ".join(printable_text(name) for name in names[:MAX_NAMES_SHOWN]) + more
