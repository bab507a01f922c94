"""Build tensors from their descriptions in a pickle; every number is checked before it is used."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vqgan_train.checkpoint.unpickling import Name, StandIn, printable_text

STORAGE_DTYPES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
    "UntypedStorage": torch.uint8,
}
"""Dtypes of elements, by the storage classes of torch that pickles name."""

NEWER_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float8_e4m3fn,
        torch.float8_e4m3fnuz,
        torch.float8_e5m2,
        torch.float8_e5m2fnuz,
        torch.uint16,
        torch.uint32,
        torch.uint64,
    )
}
"""Dtypes without a storage class, by their names in torch."""

MAX_DIMENSIONS = 64
"""Maximum number of dimensions in torch and numpy."""

# Functions whose first argument is the call that makes the tensor.
WRAPPERS = frozenset(
    ["torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"]
)


@dataclass(frozen=True, slots=True)
class Storage:
    """Range of a file's elements that tensors are views of."""

    key: str
    dtype: torch.dtype
    total: int
    """Number of elements that the file has under this key."""

    start: int
    """Index of the storage's first element among them."""

    count: int
    """Number of elements in the storage."""


def storage_of(persistent_id: Any) -> Storage:
    """Return the storage that a pickle refers to by `persistent_id`.

    Raises:
        ValueError: the id is not a valid reference to a storage of torch.
    """
    match persistent_id:
        case ("storage", Name("torch" | "torch.storage", kind), str(key), _, int(total), *view):
            pass
        case _:
            raise ValueError("its pickle refers to something other than a storage of torch")
    match view:
        case [] | [None]:
            start, count = 0, total
        case [(_, int(start), int(count))]:
            pass
        case _:
            raise ValueError(f"its storage {printable_text(key)} is a view of an unknown kind")
    if kind not in STORAGE_DTYPES:
        raise ValueError(f"it has a storage of the unknown kind {printable_text(kind)}")
    if not 0 <= start <= start + count <= total < 2**63:
        raise ValueError(f"its storage {printable_text(key)} is a view beyond its end")
    return Storage(key, STORAGE_DTYPES[kind], total, start, count)


class Tensors:
    """Builder of one file's tensors; each storage is read once, when first needed.

    Args:
        read: function that returns all bytes (N,) uint8 of a storage's key, in memory of their own.
            It must check their number against the storage before it allocates memory.
    """

    def __init__(self, read: Callable[[Storage], Tensor]) -> None:
        self._read = read
        self._bytes: dict[str, Tensor] = {}

    def make(self, recipe: Any) -> Tensor:
        """Return the tensor that the calls of torch in `recipe` would make, without gradient.

        Raises:
            ValueError: `recipe` makes no tensor, or one that exceeds its storage.
        """
        storage, start, size, strides, dtype = _parts(_innermost(recipe))
        elements = self._elements(storage, dtype)
        _require_within(start, size, strides, len(elements))
        # as_strided counts from the first byte that was read, not from where the storage starts.
        # A slice of nothing may start anywhere.
        offset = elements.storage_offset() + (start if 0 not in size else 0)
        return elements.as_strided(size, strides, offset)

    def _elements(self, storage: Storage, dtype: torch.dtype) -> Tensor:
        """Return all elements (N,) of a storage."""
        if storage.key not in self._bytes:
            self._bytes[storage.key] = self._read(storage)
        content, size = self._bytes[storage.key], storage.dtype.itemsize
        if len(content) != storage.total * size:
            raise ValueError(f"its storage {printable_text(storage.key)} has two sizes")
        return content[storage.start * size : (storage.start + storage.count) * size].view(dtype)


def _innermost(recipe: Any) -> Any:
    """Return the call that makes the tensor, inside calls that make it a parameter or subclass."""
    while isinstance(recipe, StandIn) and recipe.arguments:
        if recipe.name in WRAPPERS:
            recipe = recipe.arguments[0]
        elif recipe.name == "torch._tensor._rebuild_from_type_v2" and len(recipe.arguments) > 2:
            recipe = StandIn(str(recipe.arguments[0]), recipe.arguments[2])
        else:
            break
    return recipe


def _parts(recipe: Any) -> tuple[Storage, Any, Any, Any, torch.dtype]:
    """Return storage, offset, size, strides and dtype of the tensor that a call would make."""
    match recipe:
        case StandIn(
            name="torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2",
            arguments=(Storage() as storage, start, size, strides, *rest),
        ) if not any(rest[2:]):  # these may say that the tensor is conjugated or negated
            return storage, start, size, strides, storage.dtype
        case StandIn(
            name="torch._utils._rebuild_tensor_v3",
            arguments=(
                Storage() as storage,
                start,
                size,
                strides,
                _,
                _,
                Name("torch", kind),
                *rest,
            ),
        ) if kind in NEWER_DTYPES and not any(rest):
            return storage, start, size, strides, NEWER_DTYPES[kind]
    raise ValueError(
        f"no plain tensor, but {printable_text(getattr(recipe, 'name', type(recipe).__name__))}"
    )


def _require_within(start: Any, size: Any, strides: Any, count: int) -> None:
    """Check that a view stays inside its storage, and has no more elements than it."""
    if not (isinstance(size, tuple) and isinstance(strides, tuple)):
        raise ValueError("a tensor without a shape")
    if len(size) != len(strides) or len(size) > MAX_DIMENSIONS:
        raise ValueError("a tensor whose shape and strides do not fit")
    if not all(type(number) is int and 0 <= number < 2**63 for number in (start, *size, *strides)):
        raise ValueError("a tensor with an impossible shape, stride or offset")
    elements = math.prod(size)
    last = start + sum((length - 1) * stride for length, stride in zip(size, strides, strict=True))
    if elements and (elements > count or last >= count):
        raise ValueError(f"a tensor of shape {size} beyond its storage of {count} elements")


STATE_DICT = "state_dict"


def with_weights(content: Any, tensors: Tensors) -> dict[str, Any]:
    """Build the tensors of a checkpoint's weights: those in its `state_dict`, else all it holds.

    Returns:
        The weights under `state_dict`; everything else is unchanged, so that an optimizer's state
        takes no memory.

    Raises:
        ValueError: there are no weights, or not all of them are tensors.
    """
    if not isinstance(content, dict):
        raise ValueError(
            f"it holds a {printable_text(getattr(content, 'name', type(content).__name__))}"
        )
    weights = content.get(STATE_DICT, content)
    if not isinstance(weights, dict) or not weights or not all(isinstance(n, str) for n in weights):
        raise ValueError(_without_weights(content))
    made = {}
    for name, recipe in weights.items():
        try:
            made[name] = tensors.make(recipe)
        except ValueError as error:
            if weights is content:
                raise ValueError(_without_weights(content)) from error
            raise ValueError(f"its weight {printable_text(name)} is {error}") from error
    return {STATE_DICT: made} if weights is content else {**content, STATE_DICT: made}


def _without_weights(content: dict[Any, Any]) -> str:
    return f"it holds no state_dict, but {[printable_text(key) for key in list(content)[:8]]}"
