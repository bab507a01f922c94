"""The weights in what a pickle holds."""

from typing import Any

from vqgan_train.checkpoint.errors import shown
from vqgan_train.checkpoint.tensors import Tensors

STATE_DICT = "state_dict"


def with_weights(content: Any, tensors: Tensors) -> dict[str, Any]:
    """Make the tensors of a checkpoint's weights, or of weights that are all that it holds.

    Returns:
        What lies beside the weights as it is, so that an optimizer's state takes no memory, and the
        weights under `state_dict`.

    Raises:
        ValueError: there are none, or they are not all tensors.
    """
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {shown(getattr(content, 'name', type(content).__name__))}")
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
            raise ValueError(f"its weight {shown(name)} is {error}") from error
    return {STATE_DICT: made} if weights is content else {**content, STATE_DICT: made}


def _without_weights(content: dict[Any, Any]) -> str:
    return f"it holds no state_dict, but {[shown(key) for key in list(content)[:8]]}"
