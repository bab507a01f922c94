"""The part of a card that the hub reads."""

import re
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from vqgan_train.release.choices import Choices
from vqgan_train.release.lineage import Lineage
from vqgan_train.release.template import inline

LIBRARY = "vqgan_train"
TAGS = ("vqgan", "image-tokenizer", "taming-transformers", "pytorch", "jax")
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
HUB_SCHEME = "hf://"


def front_matter(lineage: Lineage, choices: Choices) -> dict[str, Any]:
    """What the hub reads: only what is known."""
    init_from = initial_weights(lineage)
    base = HUB_NAME.match((init_from or "").removeprefix(HUB_SCHEME))
    is_on_hub = init_from is not None and init_from.startswith(HUB_SCHEME)
    emissions = {
        "emissions": choices.emissions_grams,
        "source": choices.emissions_source,
        "training_type": "pre-training" if init_from is None else "fine-tuning",
        "geographical_location": choices.location,
        "hardware_used": choices.hardware,
    }
    content = {
        "library_name": LIBRARY,
        "tags": list(TAGS),
        "license": choices.license,
        "license_name": choices.license_name,
        "license_link": choices.license_link,
        "datasets": [name for name in choices.datasets if HUB_NAME.fullmatch(name)],
        "base_model": base[0] if base and is_on_hub else None,
        "co2_eq_emissions": {name: value for name, value in emissions.items() if value is not None}
        if choices.emissions_grams is not None
        else None,
    }
    return {name: value for name, value in content.items() if value not in (None, [])}


def initial_weights(lineage: Lineage) -> str | None:
    """Where Part 1 had its weights from, without what is nobody's business; None: from chance."""
    source = lineage.parts[0].settings["model"]["init_from"]
    if source is None:
        return None
    address = urlsplit(source)
    if address.scheme in ("http", "https"):  # no user, password or token
        return inline(f"{address.scheme}://{address.hostname}{address.path}")
    return inline(source if "://" in source else PurePosixPath(source).name)
