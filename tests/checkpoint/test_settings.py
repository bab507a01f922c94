"""Settings inside a file, which may be anything, end in a sentence or are ignored."""

import copy
import random
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
import torch
from factories import OBJECTIVE, TINY_ARCHITECTURE
from tiny_exports import original_weights, tiny_networks

from vqgan_train.checkpoint import reading
from vqgan_train.checkpoint.file_kind import FileKind
from vqgan_train.checkpoint.reading import read_networks
from vqgan_train.checkpoint.unpickling import StandIn
from vqgan_train.models import VQGAN
from vqgan_train.system.errors import CheckpointError

ONE_LEVEL = {"channel_multipliers": [1], "attention_resolutions": [32]}
NUM_MUTANTS = 5_000
SETTINGS: dict[str, Any] = {
    "hyper_parameters": {
        "model": {**TINY_ARCHITECTURE, **ONE_LEVEL, "dropout": 0.1},
        "objective": dict(OBJECTIVE),
        "discriminator_start_step": 0,
        "adversarial_start_step": 0,
    },
    "warm_step": 0,
    "global_step": 3,
    "vqgan_train": {
        "config": {
            "data": {"batch_size": 4},
            "optim": {
                "accumulate_batches": 1,
                "learning_rate_scaling": "none",
                "learning_rate": 1e-4,
            },
            "trainer": {"devices": 1, "num_nodes": 1},
        }
    },
}


def nested(depth: int) -> tuple[Any, ...]:
    value: tuple[Any, ...] = ()
    for _ in range(depth):
        value = (value,)
    return value


def doubled(depth: int) -> tuple[Any, ...]:
    """A tuple whose text has 2 ** depth entries."""
    value: tuple[Any, ...] = ()
    for _ in range(depth):
        value = (value, value)
    return value


NUMBERS = (0, 1, -1, 2, 256, 3.5, 32.0, 2**31, 2**62, 10**30, 10**400, float("inf"), float("nan"))
LISTS: tuple[Any, ...] = ([], [1], [1, 2], [1.5], ["a"], [[1]], [256], [-1], [10**9] * 300_000)
OBJECTS = (StandIn, StandIn(), torch.ones(3), torch.tensor(2.0), {}, {"a": 1}, (), (1, 2))
VALUES = (*NUMBERS, *LISTS, *OBJECTS, *(True, False, None, "", "x", "256", b"x", "9" * 5_000))


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any]], Any]:
    """Function that reads networks as if a file held the given settings, and builds them."""
    networks = tiny_networks(discriminator=False, **ONE_LEVEL)
    path = tmp_path_factory.mktemp("settings") / "a.ckpt"
    torch.save({"state_dict": original_weights(networks)}, path)

    def read_with(settings: dict[str, Any]) -> reading.CheckpointWeights:
        content = {**settings, "state_dict": original_weights(networks)}
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(reading._READERS, FileKind.TORCH_ZIP, lambda _: content)
            found = read_networks(path)
        VQGAN.from_weights(found.architecture, found.generator, path)
        return found

    return read_with


def places(settings: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in settings.items():
        yield (*path, name)
        if isinstance(value, dict):
            yield from places(value, (*path, name))


PLACES = list(places(SETTINGS))


def changed(place: tuple[str, ...], value: Any, settings: Any = SETTINGS) -> dict[str, Any]:
    changed_settings: dict[str, Any] = copy.deepcopy(settings)
    branch: Any = changed_settings
    for name in place[:-1]:
        branch = branch[name] if isinstance(branch, dict) and name in branch else {}
    if isinstance(branch, dict):
        branch[place[-1]] = value
    return changed_settings


def model(name: str) -> tuple[str, ...]:
    return ("hyper_parameters", "model", name)


def optim(name: str) -> tuple[str, ...]:
    return ("vqgan_train", "config", "optim", name)


def test_plausible_settings_are_used(read: Callable[[dict[str, Any]], Any]) -> None:
    found = read(SETTINGS)
    assert found.architecture["dropout"] == 0.1
    assert found.architecture["resolution"] == 32
    assert found.training.learning_rate == 1e-4 / 4


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("channel_multipliers", 5),
        ("attention_resolutions", 5),
        ("attention_resolutions", [10**9] * 300_000),
        ("resolution", [256]),
        ("resolution", float("inf")),
        ("channels", 32.0),
        ("dropout", 5.0),
        ("dropout", [0.5]),
        ("resample_with_convolution", []),
        ("num_residual_blocks", True),
    ],
)
def test_implausible_settings_are_those_of_another_program(
    read: Callable[[dict[str, Any]], Any], name: str, value: Any
) -> None:
    assert read(changed(model(name), value)).architecture["dropout"] == 0.0


@pytest.mark.parametrize("settings", [{"resolution": 32}, {"attention_resolutions": []}])
def test_attention_is_recorded_only_together_with_the_resolution(
    read: Callable[[dict[str, Any]], Any], settings: dict[str, Any]
) -> None:
    architecture = read({"hyper_parameters": {"model": settings}}).architecture
    assert architecture["resolution"] == architecture["attention_resolutions"][0] == 256


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (optim("learning_rate_scaling"), nested(300_000)),
        (optim("learning_rate_scaling"), doubled(60)),
        (optim("accumulate_batches"), 10**400),
        (("global_step",), -(10**400)),
        (("hyper_parameters", "objective", "codebook_weight"), torch.ones(3)),
    ],
    ids=["nested", "doubled", "many", "late", "tensor"],
)
def test_impossible_settings_of_training_are_ignored(
    read: Callable[[dict[str, Any]], Any], place: tuple[str, ...], value: Any
) -> None:
    assert read(changed(place, value)).training is None


def test_text_times_a_number_is_not_computed(read: Callable[[dict[str, Any]], Any]) -> None:
    config = ("vqgan_train", "config")
    settings = changed((*config, "data", "batch_size"), "a")
    settings = changed(optim("accumulate_batches"), 2**33, settings)
    assert read(settings).training is None


@pytest.mark.slow
def test_no_settings_end_in_a_traceback(read: Callable[[dict[str, Any]], Any]) -> None:
    generator, outcomes = random.Random(0), Counter[str]()
    for _ in range(NUM_MUTANTS):
        settings = SETTINGS
        for _ in range(generator.choice((1, 1, 2, 3))):
            settings = changed(generator.choice(PLACES), generator.choice(VALUES), settings)
        try:
            outcomes["trained" if read(settings).training else "read"] += 1
        except CheckpointError as error:
            assert len(str(error)) < 2_000  # noqa: PT017  # the other outcomes are as good
            outcomes["refused"] += 1
    assert min(outcomes[outcome] for outcome in ("trained", "read", "refused")) > 100, outcomes


def test_no_place_hashes_or_prints_a_graph_of_tuples(read: Callable[[dict[str, Any]], Any]) -> None:
    graphs = (nested(100_000), doubled(60))
    for place, graph in product(PLACES, graphs):
        read(changed(place, graph))
