"""The computed table of docs/cluster.md: from the real model's weights, by formulas that hold."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest
from factories import FULL_ARCHITECTURE

from vqgan_train.models import VQGAN, PatchDiscriminator

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("cluster_model")


def test_the_weights_are_those_of_the_model_that_is_trained(model: ModuleType) -> None:
    players = (
        VQGAN(**FULL_ARCHITECTURE),
        PatchDiscriminator(in_channels=3, channels=64, num_layers=2),
    )
    real = [sum(w.numel() for w in player.parameters() if w.requires_grad) for player in players]
    assert real == [76_073_859, 663_361]
    assert model.num_weights() == sum(real)
    page = model.PAGE.read_text()
    assert all(f"{number:,}" in page for number in real)


def test_one_rank_sends_nothing_and_many_send_the_gradient_twice(model: ModuleType) -> None:
    one = model.Cluster(1, 1, 1e9, 1e9)
    many = model.Cluster(100, 10, 1e9, 0.5e9)
    assert model.all_reduce_seconds(one, 1e9) == 0
    assert model.all_reduce_seconds(many, 1e9) == pytest.approx(2 * 2, rel=2e-3)
    assert model.arithmetic_seconds(8) == pytest.approx(8 * model.arithmetic_seconds(1))


def test_the_page_computes_with_the_arithmetic_that_was_counted(model: ModuleType) -> None:
    page = model.PAGE.read_text()
    assert f"**{model.IMAGE_GFLOP:,.0f} GFLOP** is a step" in page
    assert f"images a GPU x {model.IMAGE_GFLOP:,.0f} GFLOP" in page
    milliseconds = f"{model.arithmetic_seconds(model.BATCH) * 1e3:.0f} ms"
    assert f"{model.BATCH} x {model.IMAGE_GFLOP:,.0f} / (790,000 x 0.35) = {milliseconds}" in page


def test_the_page_holds_the_table_that_the_script_computes(model: ModuleType) -> None:
    pages = importlib.import_module("pages")
    assert pages.held(model.PAGE, "cluster") == model.to_table()
