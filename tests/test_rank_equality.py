"""Two ranks give the results of one rank that accumulates their batches."""

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clear_tokens import CLEAR_GAP, smallest_gaps
from PIL import Image
from pytorch_lightning.plugins import TorchSyncBatchNorm
from recorded_ranks import train_and_record, train_two_ranks
from tiny_runs import TINY, compose_config, rows, tiny_overrides
from torch import Tensor
from torch.nn import SyncBatchNorm

from vqgan_train.losses.adversarial import generator_hinge
from vqgan_train.system.errors import UserError
from vqgan_train.training.lightning.module import TRAINING_METRICS, VQGANModule
from vqgan_train.training.setup.networks import build_module
from vqgan_train.training.train import train

WEIGHT = list(TRAINING_METRICS).index("adaptive_weight")

CLEAR_SEED = "run.seed=5"
"""With it no latent of the run lies midway between two codes, where rounding would choose."""

WITH_MEAN = "loss.adaptive_weight_scope=mean"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("one")


@pytest.fixture(scope="module")
def two_runs(folders: tuple[Path, Path]) -> list[list[dict[str, Any]]]:
    """Train on two ranks with the default weight of the adversarial loss, then with `mean`."""
    folder = folders[0]
    return train_two_ranks(
        folder,
        tiny_overrides(folder, CLEAR_SEED),
        tiny_overrides(folder, WITH_MEAN, f"run.output_dir={folder / 'mean'}"),
    )


@pytest.fixture(scope="module")
def two(two_runs: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return two_runs[0]


@pytest.fixture(scope="module")
def one(folders: tuple[Path, Path]) -> dict[str, Any]:
    with smallest_gaps() as gaps:
        record = train_and_record(
            tiny_overrides(folders[1], CLEAR_SEED, "optim.accumulate_batches=2")
        )
    assert min(gaps) > CLEAR_GAP, "rounding alone may choose other codes; take another seed"
    return record


def test_the_order_of_samples_is_the_same(two: list[dict[str, Any]], one: dict[str, Any]) -> None:
    batches = zip(*(record["batches"] for record in two), strict=True)
    together = [batch["names"] for batch in chain.from_iterable(batches)]
    assert together == [batch["names"] for batch in one["batches"]]


def test_weights_are_equal_to_float_noise(two: list[dict[str, Any]], one: dict[str, Any]) -> None:
    moved = 0
    for name, alone in one["end"].items():
        # Accumulated batches update the running statistics in turn; ranks average theirs.
        if "running" in name or "tracked" in name:
            continue
        for rank in two:
            torch.testing.assert_close(rank["end"][name], alone, rtol=1e-5, atol=1e-6, msg=name)
        moved += not torch.equal(one["start"][name], alone)
    assert moved > 50


def test_ranks_are_bit_equal(two: list[dict[str, Any]]) -> None:
    first, second = (record["end"] for record in two)
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_no_step_waits_in_a_barrier(two_runs: list[list[dict[str, Any]]]) -> None:
    # NCCL's barrier blocks the host until the GPU is done; see RankStrategy.reduce.
    assert [record["barriers"] for run in two_runs for record in run] == [0] * 4


def test_ranks_keep_the_mean_of_their_statistics_of_batch_norm(two: list[dict[str, Any]]) -> None:
    statistics = [record["own_statistics"] for record in two]
    averaged = [name for name in statistics[0] if "running" in name]
    assert averaged
    for name in averaged:
        one, other = (own[name] for own in statistics)
        assert not torch.equal(one, other)
        kept = two[0]["end"][f"discriminator.{name}"]
        torch.testing.assert_close(kept, (one + other) / 2, msg=name)


@pytest.mark.usefixtures("two", "one")
def test_all_rows_are_equal_codebook_use_among_them(folders: tuple[Path, Path]) -> None:
    together, alone = (rows(folder / "run") for folder in folders)
    assert len(together) == len(alone) == 5
    named = {name for row in alone for name, value in row.items() if value}
    assert {"val/codebook/used", "val/codebook/dead", "val/codebook/perplexity"} <= named
    assert {"val/psnr", "train/adversarial/weight", "val/loss/reconstruction"} <= named
    for left, right in zip(together, alone, strict=True):
        for name in named:
            assert bool(left[name]) == bool(right[name]), name
            if right[name]:
                assert float(left[name]) == pytest.approx(float(right[name]), rel=1e-4), name


@pytest.mark.usefixtures("two", "one")
def test_pictures_are_equal_to_a_grey_level(folders: tuple[Path, Path]) -> None:
    names = sorted(path.name for path in (folders[1] / "run" / "images").glob("*.png"))
    assert len(names) == 3
    for name in names:
        left, right = (
            np.asarray(Image.open(f / "run" / "images" / name), np.int16) for f in folders
        )
        assert np.abs(left - right).max() <= 1, name


def test_by_default_each_batch_is_balanced_by_itself(
    two: list[dict[str, Any]], one: dict[str, Any]
) -> None:
    batches = zip(*(record["batches"] for record in two), strict=True)
    together = [float(batch["terms"][WEIGHT]) for batch in chain.from_iterable(batches)]
    assert together == pytest.approx([float(b["terms"][WEIGHT]) for b in one["batches"]], rel=1e-4)
    assert abs(together[0] - together[1]) > 1e-3  # ranks differ


def test_with_mean_all_ranks_have_the_weight_of_all_their_images(
    two_runs: list[list[dict[str, Any]]],
) -> None:
    ranks = two_runs[1]
    for left, right in zip(*(record["batches"] for record in ranks), strict=True):
        assert torch.equal(left["terms"][WEIGHT], right["terms"][WEIGHT])
    for name, weight in ranks[0]["end"].items():
        assert torch.equal(weight, ranks[1]["end"][name]), name

    module = build_module(compose_config(*TINY, WITH_MEAN))
    module.load_state_dict(ranks[0]["start"])
    gradients = [gradients_by_autograd(module, record["batches"][0]["images"]) for record in ranks]
    nll, adversarial = ((a + b) / 2 for a, b in zip(*gradients, strict=True))
    expected = module.objective.adversarial_weight * nll.norm() / (adversarial.norm() + 1e-4)
    logged = ranks[0]["batches"][0]["terms"][WEIGHT]
    torch.testing.assert_close(logged, expected, rtol=1e-4, atol=0)
    nll, adversarial = gradients[0]
    alone = module.objective.adversarial_weight * nll.norm() / (adversarial.norm() + 1e-4)
    assert abs(float(logged - alone)) > 1e-3


def gradients_by_autograd(module: VQGANModule, images: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the gradients of the two losses at the last layer by plain autograd."""
    module.train()
    reconstruction = module.generator(images).reconstruction
    objective = module.objective
    nll = (images - reconstruction).abs().mean() + objective.perceptual_weight * objective.lpips(
        images, reconstruction
    ).mean()
    adversarial = generator_hinge(module.discriminator(reconstruction))
    last_layer = module.generator.decoder.conv_out.weight
    (nll_gradient,) = torch.autograd.grad(nll, last_layer, retain_graph=True)
    (adversarial_gradient,) = torch.autograd.grad(adversarial, last_layer)
    return nll_gradient, adversarial_gradient


def test_with_mean_one_rank_trains_as_without(one: dict[str, Any], tmp_path: Path) -> None:
    overrides = (CLEAR_SEED, "optim.accumulate_batches=2", WITH_MEAN)
    alone = train_and_record(tiny_overrides(tmp_path, *overrides))
    for name, weight in one["end"].items():
        assert torch.equal(weight, alone["end"][name]), name


def test_what_lightning_synchronises_is_the_discriminators_norms_and_no_weight() -> None:
    module = build_module(compose_config(*TINY))
    before = module.state_dict()
    converted = TorchSyncBatchNorm().apply(module)
    norms = [name for name, part in converted.named_modules() if isinstance(part, SyncBatchNorm)]
    assert norms == ["discriminator.layers.3", "discriminator.layers.6"]
    after = converted.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_synchronised_batch_norm_is_refused_where_torch_would(tmp_path: Path) -> None:
    config = compose_config(*tiny_overrides(tmp_path, "trainer.sync_batchnorm=true"))
    with pytest.raises(UserError, match=r"trainer\.sync_batchnorm=true needs GPUs"):
        train(config)
    assert not (tmp_path / "run").exists()
