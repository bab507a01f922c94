"""Settings out of stand-ins: what omegaconf's objects and subclasses of dict held, as plain values.

Checkpoints of 2021 have their settings as objects of omegaconf 2.0.0, which no other version can
read. What they held is in the stand-ins for them, under the names that omegaconf gives its
attributes.
"""

from typing import Any

from vqgan_train.checkpoint.stand_ins import StandIn

MAX_DEPTH = 50
"""Settings are not nested deeper; what is stays as it was."""


def plain_values(value: Any) -> Any:
    """A copy of nested dicts and lists in which stand-ins for settings are the settings.

    Interpolations stay text, as `${data.image_size}`. All other stand-ins stay what they are.
    """
    return _Plain().convert(value, MAX_DEPTH)


class _Plain:
    """One conversion, which remembers what it has met: pickles may hold a list within itself."""

    def __init__(self) -> None:
        self.converted: dict[int, Any] = {}

    def convert(self, value: Any, depth: int) -> Any:
        if id(value) in self.converted or depth == 0:
            return self.converted.get(id(value), value)
        value_within = _unwrapped(value)
        if isinstance(value_within, dict):
            settings: dict[Any, Any] = {}
            self.converted[id(value)] = settings
            settings.update(
                (key, self.convert(item, depth - 1)) for key, item in value_within.items()
            )
            return settings
        if isinstance(value_within, list):
            entries: list[Any] = []
            self.converted[id(value)] = entries
            entries.extend(self.convert(item, depth - 1) for item in value_within)
            return entries
        return value_within


def _unwrapped(value: Any) -> Any:
    """What a stand-in for a node of omegaconf or for a subclass of dict held."""
    if not isinstance(value, StandIn):
        return value
    if value.name.startswith("omegaconf.") and isinstance(value.state, dict):
        if "_content" in value.state:
            return value.state["_content"]
        return value.state.get("_val", value)
    return dict(value.pairs) if value.pairs and not value.state else value
