"""Networks that measure, and whose weights they have: numbers of two of them do not compare."""

from typing import NamedTuple

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
