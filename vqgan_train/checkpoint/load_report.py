"""Weights of a training that diverged are refused."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vqgan_train.checkpoint.unpickling import shown
from vqgan_train.checkpoint.weight_names import to_original
from vqgan_train.system.errors import CheckpointError


def require_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights of which one is infinite or no number.

    Raises:
        CheckpointError: there are such; it names the first.
    """
    infinite = [name for name, weight in weights.items() if not weight.isfinite().all()]
    if infinite:
        raise CheckpointError(
            f"{path} has numbers that are infinite or no numbers in {len(infinite)} of its "
            f"{len(weights)} weights, {infinite[0]} for one: its training diverged. Take an "
            "earlier checkpoint."
        )


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """64 hexadecimal digits that name weights on the CPU, in whatever format they were stored."""
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        digest.update(weight.detach().contiguous().numpy().data)
    return digest.hexdigest()


PARTS = {
    "encoder": ("generator.encoder.", "generator.quant_conv."),
    "decoder": ("generator.decoder.", "generator.post_quant_conv."),
    "codebook": ("generator.quantizer.",),
    "discriminator": ("discriminator.",),
}
"""The parts of a model, by the beginnings of our names for their weights."""

NAMES_SHOWN = 3
NO_VALUE = torch.empty(0)


@dataclass(frozen=True, kw_only=True, slots=True)
class PartReport:
    """One part's weights, under the original's names."""

    loaded: tuple[str, ...]
    """Those that are in the file and in the model, with one shape."""

    missing: tuple[str, ...]
    """Those that the model has and the file has not."""

    unexpected: tuple[str, ...]
    """Those that the file has and the model has not."""

    mismatched: tuple[str, ...]
    """Those that have one shape in the file and another in the model; both are said."""

    @property
    def fits(self) -> bool:
        """Whether every weight has its place and every place its weight."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        gaps = {name: getattr(self, name) for name in ("missing", "unexpected", "mismatched")}
        described = [
            f"{len(names)} {kind} ({_some(names)})" for kind, names in gaps.items() if names
        ]
        return ", ".join([f"{len(self.loaded)} loaded", *described])


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What was found for each of `PARTS` that the model has."""

    parts: Mapping[str, PartReport]

    @classmethod
    def compare(cls, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> "LoadReport":
        """Compare what a model has with what a file has.

        Args:
            expected: the model's weights under our names.
            found: the file's, likewise.
        """
        parts = {}
        for part, prefixes in PARTS.items():
            here = {name: w for name, w in expected.items() if name.startswith(prefixes)}
            there = {name: w for name, w in found.items() if name.startswith(prefixes)}
            if here:
                parts[part] = _compare_part(here, there)
        return cls(parts)

    @property
    def discriminator_is_new(self) -> bool:
        """Whether the file has no discriminator at all, so that the model's stays as it was."""
        part = self.parts.get("discriminator")
        return part is not None and not (part.loaded or part.unexpected or part.mismatched)

    @property
    def fits(self) -> bool:
        """Whether nothing is missing, unexpected or of another shape, a new discriminator aside."""
        return all(
            part.fits or (name == "discriminator" and self.discriminator_is_new)
            for name, part in self.parts.items()
        )

    def require_fit(self, path: Path, advice: str) -> None:
        """Let no gap pass.

        Raises:
            CheckpointError: the file does not fit.
        """
        if not self.fits:
            raise CheckpointError(f"{path} does not fit the model. {advice}\n{self}")

    def __str__(self) -> str:
        return "\n".join(
            f"  {name:13} " + ("none in the file" if _is_new(self, name) else str(part))
            for name, part in self.parts.items()
        )


def require_generator(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path
) -> None:
    """Let no gap in a tokenizer pass; both sides' names are ours without the leading `generator.`.

    Raises:
        CheckpointError: the file does not fit.
    """
    report = LoadReport.compare(
        {f"generator.{name}": weight for name, weight in expected.items()},
        {f"generator.{name}": weight for name, weight in found.items()},
    )
    report.require_fit(path, "Its weights are not all there, or not those of one model.")


def _is_new(report: LoadReport, name: str) -> bool:
    return name == "discriminator" and report.discriminator_is_new


def _compare_part(here: Mapping[str, Tensor], there: Mapping[str, Tensor]) -> PartReport:
    common = [name for name in here if name in there]
    same = {name for name in common if here[name].shape == there[name].shape}
    return PartReport(
        loaded=tuple(_original(name) for name in common if name in same),
        missing=tuple(_original(name) for name in here if name not in there),
        unexpected=tuple(_original(name) for name in there if name not in here),
        mismatched=tuple(
            f"{_original(name)} is {tuple(there[name].shape)}, not {tuple(here[name].shape)}"
            for name in common
            if name not in same
        ),
    )


def _original(name: str) -> str:
    """The name under which the file has, or would have, a weight."""
    return next(iter(to_original({name: NO_VALUE})))


def _some(names: tuple[str, ...]) -> str:
    more = ", ..." if len(names) > NAMES_SHOWN else ""
    return ", ".join(shown(name) for name in names[:NAMES_SHOWN]) + more
