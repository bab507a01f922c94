"""What a model card says that no run knows."""

from collections.abc import Sequence
from typing import NamedTuple


class Choices(NamedTuple):
    """What no run knows and somebody has to say; None or nothing: it was not said."""

    repository: str | None
    """USER/REPO on the hub."""

    license: str | None
    """The hub's name of it."""

    license_name: str | None
    license_link: str | None
    datasets: Sequence[str]
    """Names on the hub, or any text."""

    hardware: str | None
    location: str | None
    emissions_grams: float | None
    """CO2 equivalents."""

    emissions_source: str | None
