"""Networks that measure, and whose weights they have: numbers of two of them do not compare."""

from typing import NamedTuple

DIGITS = 8
"""Of a hash in a name."""


class Evaluator(NamedTuple):
    """A network with its weights."""

    name: str
    """Library and network."""

    weights_sha256: str
    """Of the weights that were really used."""

    is_published: bool
    """Whether they are those that everybody else's numbers were measured with."""

    def __str__(self) -> str:
        """The name alone means the published weights; no others go by it."""
        if self.is_published:
            return self.name
        digest = self.weights_sha256[:DIGITS]
        return f"{self.name} (weights sha256 {digest}..., not the published ones)"
