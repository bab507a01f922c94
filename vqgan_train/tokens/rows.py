"""What a file of tokens has of one image."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqgan_train.tokens.loading import Labels


class Row(NamedTuple):
    """One image."""

    labels: Labels
    tokens: NDArray[np.int32]
    """(N,), row by row of the grid."""
