"""The evaluate command compared with libraries on real photos, and on sets with known results."""

import tarfile
import warnings
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
import torch.multiprocessing
from evaluation_reader import read_evaluation
from factories import image_samples, write_shard
from real_photos import PHOTOS
from recorded_ranks import be_rank_of_torchrun, free_port
from tiny_evaluate import TinyFeatures, run_evaluate, with_tiny_features, write_weights
from tiny_tokens import tiny_checkpoint
from torch import Tensor
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)
from torchvision.transforms.functional import gaussian_blur

from vqgan_train.evaluation.report.metric_names import IMAGE_METRICS
from vqgan_train.evaluation.report.results import ALL, FACE_BOXES, Evaluation
from vqgan_train.images.transforms import ImageTransform
from vqgan_train.losses.lpips_files import ALEXNET, VGG16
from vqgan_train.losses.lpips_weights import find_lpips_weights
from vqgan_train.tokens.tokenizer import Tokenizer, load_tokenizer

PEOPLE = PHOTOS.with_name("people-00000.tar")
SIDE = 96
SMALL_PHOTOS = (f"resize={SIDE}", f"image_size={SIDE}")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Isolate tests from a scheduler's variables and Inception's weights."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
    with_tiny_features(monkeypatch)


def people() -> str:
    """Return the setting with real photos of people."""
    if not PEOPLE.exists():
        pytest.skip(f"there are no photos at {PEOPLE}")
    return f"data.val_shards={PEOPLE}"


# Against the libraries.


def squares(shards: list[Path]) -> Tensor:
    """Return the cropped images, (N, 3, SIDE, SIDE) uint8."""
    transform = ImageTransform(SIDE, SIDE, random_crop=False, random_flip=False)
    draws_nothing, found = np.random.default_rng(0), []
    for shard in shards:
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.name.endswith(".jpg") and (file := tar.extractfile(member)):
                    found.append(transform.pixels(file.read(), draws_nothing))
    return torch.stack(found)


def their_lpips(network: str) -> lpips.LPIPS:
    """Build the package's LPIPS with our convolutions instead of those it would download."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = lpips.LPIPS(net=network, pnet_rand=True, verbose=False)
    weights = find_lpips_weights(ALEXNET if network == "alex" else VGG16)
    layers = (layer for layer in theirs.net.modules() if isinstance(layer, torch.nn.Conv2d))
    for index, layer in enumerate(layers):
        parts = {part: weights[f"convolutions.{index}.{part}"] for part in ("weight", "bias")}
        layer.load_state_dict(parts)
    return theirs.eval()


@torch.inference_mode()
def their_means(images: Tensor, pixels: Tensor) -> dict[str, float]:
    networks = {"lpips_vgg": their_lpips("vgg"), "lpips_alex": their_lpips("alex")}
    values: dict[str, list[float]] = {}
    for image, made in zip(images.split(1), pixels.split(1), strict=True):
        one, other = image.float() / 255, made.float() / 255
        found = {
            "psnr": peak_signal_noise_ratio(other, one, data_range=1.0),
            "ssim": structural_similarity_index_measure(other, one, data_range=1.0),
            "l1": (other - one).abs().mean(),
        }
        found |= {name: net(one * 2 - 1, other * 2 - 1) for name, net in networks.items()}
        for name, value in found.items():
            values.setdefault(name, []).append(float(value))
    return {name: float(np.mean(found)) for name, found in values.items()}


@pytest.mark.slow
def test_means_over_real_photos_are_those_of_the_plain_libraries(tmp_path: Path) -> None:
    people()
    checkpoint = tiny_checkpoint(tmp_path)
    shards = [PHOTOS, PEOPLE]
    given = f"shards=[{','.join(map(str, shards))}]"
    arguments = (given, *SMALL_PHOTOS, "faces.detect=true", "batch_size=16")
    assert run_evaluate([checkpoint], tmp_path / "out", *arguments) == 0
    found = read_evaluation(tmp_path / "out")
    images = squares(shards)
    assert found.dataset.num_images == len(images) >= 100
    tokenizer = load_tokenizer(checkpoint, torch.device("cpu"), "fp32")
    grid = (SIDE // 2, SIDE // 2)
    pixels = torch.cat(
        [
            tokenizer.decode(tokenizer.encode(batch, "signed"), grid, "signed")
            for batch in images.split(16)
        ]
    )
    (result,) = found.checkpoints
    theirs = their_means(images, pixels)
    assert set(theirs) == set(IMAGE_METRICS)
    for name, mean in theirs.items():
        assert result.summaries[ALL][name].mean == pytest.approx(mean, abs=1e-4), name
    assert result.summaries[FACE_BOXES]["face_psnr"].count > 0


# Faces on ranks.


def run_rank(rank: int, folder: Path, port: int, arguments: list[str]) -> None:
    """Evaluate as rank `rank` of 2."""
    be_rank_of_torchrun(rank, port)
    if run_evaluate([folder / "tiny.ckpt"], folder / "two_ranks", *arguments) != 0:
        raise RuntimeError(f"rank {rank} failed")


@pytest.mark.slow
def test_two_ranks_find_the_faces_that_one_finds(tmp_path: Path) -> None:
    arguments = [people(), "resize=128", "image_size=128", "faces.detect=true", "batch_size=2"]
    arguments += ["metrics=[psnr]"]
    checkpoint = tiny_checkpoint(tmp_path)
    torch.multiprocessing.spawn(run_rank, (tmp_path, free_port(), arguments), nprocs=2)
    assert run_evaluate([checkpoint], tmp_path / "one_rank", *arguments) == 0
    together, single = (read_evaluation(tmp_path / name) for name in ("two_ranks", "one_rank"))
    assert len(single.images.face_images) > 1
    np.testing.assert_array_equal(together.images.face_images, single.images.face_images)
    np.testing.assert_array_equal(together.images.face_boxes, single.images.face_boxes)
    ours, theirs = together.checkpoints[0].face_values, single.checkpoints[0].face_values
    assert set(ours) == set(theirs) >= {"face_psnr"}
    for name, values in theirs.items():
        np.testing.assert_allclose(ours[name], values, atol=1e-4, err_msg=name)


# Sets with known results.


def evaluate_a_model_that(
    makes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Evaluation:
    """Replace the reconstructions by the images themselves, or by blurred ones."""
    seen: list[Tensor] = []
    encode = Tokenizer.encode

    def remember(self: Tokenizer, images: Tensor, pixel_range: str) -> Tensor:
        seen.append(images)
        return encode(self, images, pixel_range)

    def give_back(self: Tokenizer, *_: object) -> Tensor:
        sides = {"same": 1, "blurred": 5, "much blurred": 13}
        side = sides[makes]
        return seen[-1] if side == 1 else gaussian_blur(seen[-1], [side, side])

    monkeypatch.setattr(Tokenizer, "encode", remember)
    monkeypatch.setattr(Tokenizer, "decode", give_back)
    shard = write_shard(tmp_path / "a.tar", image_samples(8))
    checkpoint, output = tiny_checkpoint(tmp_path), tmp_path / makes
    weights = write_weights(tmp_path / "weights")
    given = (f"shards={shard}", "resize=32", "image_size=32", "slices.people=null", *weights)
    assert run_evaluate([checkpoint], output, *given) == 0
    monkeypatch.undo()
    with_tiny_features(monkeypatch)
    return read_evaluation(output)


def test_a_model_that_changes_nothing_is_perfect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluate_a_model_that("same", tmp_path, monkeypatch)
    (result,) = found.checkpoints
    summaries = result.summaries[ALL]
    assert (summaries["psnr"].count, summaries["psnr"].num_infinite) == (0, 8)
    assert summaries["psnr"].mean == np.inf
    assert summaries["ssim"].mean == pytest.approx(1)
    for name in ("l1", "lpips_vgg", "lpips_alex"):
        assert summaries[name].mean == pytest.approx(0, abs=1e-6), name
    assert result.rfid[ALL].value == pytest.approx(0, abs=1e-4)
    assert '<p class="mean">\N{INFINITY}</p>' in (tmp_path / "same" / "page.html").read_text()
    assert "nan" not in capsys.readouterr().out


def test_a_model_that_blurs_is_worse_in_each_the_more_it_blurs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    little, much = (
        evaluate_a_model_that(makes, tmp_path, monkeypatch).checkpoints[0]
        for makes in ("blurred", "much blurred")
    )
    for name, shown in IMAGE_METRICS.items():
        change = much.summaries[ALL][name].mean - little.summaries[ALL][name].mean
        assert (change < 0) == shown.higher_is_better, name
        assert change != 0
    assert str(TinyFeatures.evaluator) == much.rfid[ALL].evaluator
    assert much.rfid[ALL].value > little.rfid[ALL].value > 0
