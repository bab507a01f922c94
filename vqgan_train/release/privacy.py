"""What of a run's settings may be published: addresses without what may be a secret in them."""

from collections.abc import Mapping
from typing import Any

from vqgan_train.shards.naming import redact_address

ADDRESSES = {
    ("data", "train_shards"),
    ("data", "val_shards"),
    ("model", "init_from"),
    ("run", "parent"),
}
"""Settings that may hold a user, a password, a signed query or a command."""


def public_settings(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The settings of a run, its addresses as log messages show them."""
    return {
        group: {
            name: _public(value) if (group, name) in ADDRESSES else value
            for name, value in values.items()
        }
        for group, values in settings.items()
    }


def _public(value: Any) -> Any:
    if isinstance(value, list):
        return [_public(entry) for entry in value]
    return redact_address(value) if isinstance(value, str) else value
