"""The evaluate command: settings, numbers, results and missing weights."""

import io
import json
import re
import shutil
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.multiprocessing
from evaluation_reader import read_evaluation
from factories import image_bytes, image_samples, write_shard
from numpy.typing import NDArray
from recorded_ranks import be_rank_of_torchrun, free_port
from tiny_evaluate import TinyFeatures, run_evaluate, with_tiny_features, write_weights
from tiny_runs import compose_settings
from tiny_tokens import tiny_checkpoint, tiny_samples, tiny_shards
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from vqgan_train.checkpoint.load_report import weights_sha256
from vqgan_train.cli import USER_ERROR, user_can_fix
from vqgan_train.config.checks import setting_names
from vqgan_train.config.evaluation import EvaluateConfig, EvaluationMetric
from vqgan_train.config.preparation import SelectConfig
from vqgan_train.config.run import Config
from vqgan_train.evaluation import evaluate as command
from vqgan_train.evaluation import metric_suite
from vqgan_train.evaluation.metric_suite import RequestedMetrics, load_metric_suite
from vqgan_train.evaluation.report.evaluation_folder import PAGE_FILE
from vqgan_train.evaluation.report.metric_names import IMAGE_METRICS
from vqgan_train.evaluation.report.results import ALL, FACE_BOXES, WITH_FACE, Evaluation
from vqgan_train.images.transforms import ImageTransform
from vqgan_train.metrics.images import PIXEL_METRICS, measure
from vqgan_train.preparation.survey import word_pattern
from vqgan_train.system.errors import UserError
from vqgan_train.system.launch import ProcessRank
from vqgan_train.tokens.tokenizer import load_tokenizer

ROOT = Path(__file__).parents[1]

GIVEN = ("checkpoint=a.ckpt", "output=out", "shards=a.tar")
PLAIN = "metrics=[psnr,ssim,l1]"


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(monkeypatch, tmp_path)


def isolate(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Isolate tests from the user's cache, a scheduler's variables and the network."""
    patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_STEP_ID"):
        patch.delenv(name, raising=False)
    with_tiny_features(patch)


@pytest.fixture
def checkpoints(tmp_path: Path) -> list[Path]:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    return [tiny_checkpoint(tmp_path / "one"), tiny_checkpoint(tmp_path / "two", codebook_size=32)]


@pytest.fixture
def shards(tmp_path: Path) -> str:
    return f"shards={tiny_shards(tmp_path / 'shards')[0].parent}/*.tar"


@dataclass(frozen=True)
class Evaluated:
    """One evaluation of two checkpoints with all metrics, which several tests look at."""

    checkpoints: list[Path]
    shards: str
    weights: tuple[str, ...]
    folder: Path
    printed: str


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    folder = tmp_path_factory.mktemp("evaluated")
    (folder / "one").mkdir()
    (folder / "two").mkdir()
    checkpoints = [
        tiny_checkpoint(folder / "one"),
        tiny_checkpoint(folder / "two", codebook_size=32),
    ]
    shards = f"shards={tiny_shards(folder / 'shards')[0].parent}/*.tar"
    weights = write_weights(folder)
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        isolate(patch, folder)
        assert run_evaluate(checkpoints, folder / "out", shards, "pictures=2", *weights) == 0
    return Evaluated(checkpoints, shards, weights, folder / "out", printed.getvalue())


# The settings.


def test_the_choices_are_those_that_there_are() -> None:
    assert [choice.value for choice in EvaluationMetric] == [*IMAGE_METRICS, "rfid"]


def test_lpips_with_alexnet_is_accepted_by_both_of_its_names() -> None:
    for name in ("lpips_alex", "lpips_alexnet"):
        config = compose_settings("evaluate", EvaluateConfig, *GIVEN, f"metrics=[{name}]")
        assert [metric.value for metric in config.metrics] == ["lpips_alex"]
        config = compose_settings("train", Config, f"run.val_metrics=[{name}]")
        assert [metric.value for metric in config.run.val_metrics] == ["lpips_alexnet"]


def test_people_are_those_of_select() -> None:
    sources = ("sources.cc3m=a.tar", "sources.yfcc=b.tar", "output=out")
    words = compose_settings("select", SelectConfig, *sources).people.words
    people = compose_settings("evaluate", EvaluateConfig, *GIVEN).slices["people"]
    assert (people.column, people.pattern) == ("caption", word_pattern(words).pattern)


def test_every_setting_is_read() -> None:
    source = (ROOT / "vqgan_train" / "evaluation" / "evaluate.py").read_text()
    names = [name for name in setting_names(EvaluateConfig) if name.split(".")[0] != "data"]
    assert [name for name in names if f"config.{name}" not in source] == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["folder=photos"], "folder=...; given: shards and folder."),
        (["data.val_shards=b.tar"], "given: shards and data.val_shards."),
        (["shards=null"], "given: none."),
        (["checkpoint=[]"], "checkpoint is []; give the path"),
        (["output=''"], "output is empty"),
        (["names=[a,b]"], "names is ['a', 'b']; give each of the 1 checkpoints"),
        (["names=['']"], "names is ['']; '' and 'slice' are not allowed"),
        (["names=[slice]"], "names is ['slice']; '' and 'slice' are not"),
        (["metrics=[]"], "metrics is empty"),
        (["image_size=16"], "image_size is 16; it must be at least 32"),
        (["resize=128"], "resize is 128, smaller than image_size=256"),
        (["batch_size=0"], "batch_size is 0"),
        (["pictures=-1"], "pictures is -1"),
        (["max_bad_fraction=1"], "max_bad_fraction is 1.0; it must be in [0, 1)"),
        (["cache_gb=0"], "cache_gb is 0.0; it must be more than 0"),
        (["stall_seconds=0"], "stall_seconds is 0.0; it must be more than 0"),
        (["attempts=0"], "attempts is 0; it must be at least 1"),
        (["num_workers=-1"], "num_workers is -1"),
        (["bootstrap.resamples=1"], "bootstrap.resamples is 1; it must be at least 2"),
        (["+slices.all={column: key, pattern: a}"], "slices.all has a built-in group's name"),
        (["+slices.a={column: key}"], "slices.a is {'column': 'key'}; give a slice column and"),
        (["+slices.a=3"], "slices.a is 3; give a slice column and pattern"),
    ],
)
def test_a_mistake_is_refused_with_what_to_change(overrides: list[str], message: str) -> None:
    names = {override.split("=")[0] for override in overrides}
    kept = [setting for setting in GIVEN if setting.split("=")[0] not in names]
    with pytest.raises(UserError) as raised:
        compose_settings("evaluate", EvaluateConfig, *kept, *overrides)
    assert user_can_fix(raised.value)
    assert message in str(raised.value)


def test_slices_are_added_and_left_out_on_the_command_line() -> None:
    dogs = r"+slices.dogs={column: license, pattern: '\bdogs?\b'}"
    slices = compose_settings("evaluate", EvaluateConfig, *GIVEN, dogs, "slices.people=null").slices
    assert {name: (rule.column, rule.pattern) for name, rule in slices.items()} == {
        "dogs": ("license", r"\bdogs?\b")
    }


# The numbers.


def images_of_shards() -> Tensor:
    """Return all images of the tiny shards after cropping, (17, 3, 32, 32) uint8."""
    transform = ImageTransform(32, 32, random_crop=False, random_flip=False)
    draws_nothing = np.random.default_rng(0)
    encoded = [sample["png"] for sample in tiny_samples()]
    return torch.stack([transform.pixels(image, draws_nothing) for image in encoded])


def test_the_numbers_are_those_of_the_models_pictures(evaluated: Evaluated) -> None:
    found = read_evaluation(evaluated.folder)
    images = images_of_shards()
    assert [c.name for c in found.checkpoints] == ["one", "two"]
    for path, result in zip(evaluated.checkpoints, found.checkpoints, strict=True):
        tokenizer = load_tokenizer(path, torch.device("cpu"), "fp32")
        tokens = tokenizer.encode(images, "signed")
        pixels = tokenizer.decode(tokens, (16, 16), "signed")
        for name, values in measure(PIXEL_METRICS, images, pixels).items():
            np.testing.assert_allclose(result.values[name], values, atol=EIGHT_PIXELS, err_msg=name)
        assert set(result.values) == set(IMAGE_METRICS)
        expected = np.bincount(tokens.flatten(), minlength=tokenizer.codebook_size)
        np.testing.assert_array_equal(result.codebook.usage, expected)
        assert result.rfid[ALL].value == pytest.approx(torchmetrics_fid(images, pixels), rel=1e-4)
        assert (result.rfid[ALL].count, result.rfid[ALL].comparable) == (17, False)


def torchmetrics_fid(images: Tensor, pixels: Tensor) -> float:
    class AsTheyAre(nn.Module):
        num_features = TinyFeatures.num_features

        def forward(self, features: Tensor) -> Tensor:
            return features

    theirs, network = FrechetInceptionDistance(feature=AsTheyAre()), TinyFeatures(Path())
    theirs.update(network(images).double(), real=True)
    theirs.update(network(pixels).double(), real=False)
    return float(theirs.compute())


EIGHT_PIXELS = 1e-3
"""How much eight pixels that differ by one grey level change a metric of 32 x 32 pixels.

A pixel that the model puts midway between two grey levels is rounded up or down with the batch and
the processor. One to three pixels of an image were; one changes PSNR, SSIM and each LPIPS by 1.3e-4
at most. Another image's metrics differ by more than 1e-2.
"""


def assert_same(one: Evaluation, other: Evaluation) -> None:
    """Compare two evaluations, up to rounding, which depends on the batch."""
    assert one.images.keys == other.images.keys
    assert one.images.captions == other.images.captions
    np.testing.assert_array_equal(one.images.numbers, other.images.numbers)
    np.testing.assert_array_equal(one.images.face_boxes, other.images.face_boxes)
    np.testing.assert_array_equal(one.images.face_images, other.images.face_images)
    assert one.dataset == other.dataset
    for ours, theirs in zip(one.checkpoints, other.checkpoints, strict=True):
        for name, values in (ours.values | ours.face_values).items():
            others = (theirs.values | theirs.face_values)[name]
            np.testing.assert_allclose(values, others, atol=EIGHT_PIXELS, err_msg=name)
        np.testing.assert_array_equal(ours.codebook.usage, theirs.codebook.usage)
        for group, distance in ours.rfid.items():
            assert distance.count == theirs.rfid[group].count
            assert distance.value == pytest.approx(theirs.rfid[group].value, rel=1e-4, nan_ok=True)
        for group, summaries in ours.summaries.items():
            for metric, summary in summaries.items():
                others_summary = theirs.summaries[group][metric]
                assert summary.count == others_summary.count
                assert summary.low == pytest.approx(others_summary.low, rel=1e-4, nan_ok=True)
    assert [kept.row for kept in one.pictures] == [kept.row for kept in other.pictures]


def test_neither_batches_nor_workers_show(tmp_path: Path, evaluated: Evaluated) -> None:
    given = (evaluated.shards, *evaluated.weights, "pictures=2", "batch_size=7", "num_workers=2")
    assert run_evaluate(evaluated.checkpoints, tmp_path / "out", *given) == 0
    assert_same(read_evaluation(evaluated.folder), read_evaluation(tmp_path / "out"))


def run_rank(rank: int, folder: Path, port: int, arguments: list[str]) -> None:
    """Evaluate as rank `rank` of 2."""
    be_rank_of_torchrun(rank, port)
    with_tiny_features(patch := pytest.MonkeyPatch())
    with_made_up_faces(patch)
    checkpoints = [folder / name / "tiny.ckpt" for name in ("one", "two")]
    if run_evaluate(checkpoints, folder / "two_ranks", *arguments) != 0:
        raise RuntimeError(f"rank {rank} failed")


def with_made_up_faces(patch: pytest.MonkeyPatch) -> None:
    """Find none, one or two faces in an image, without dlib; they depend on its pixels."""

    def find(pixels: Tensor) -> NDArray[np.int64]:
        total = int(pixels.sum())
        left, top = total % 7, total % 11
        boxes = [[left, top, left + 12, top + 9], [left + 5, top + 3, left + 20, top + 20]]
        return np.array(boxes[: total % 3], np.int64).reshape(-1, 4)

    patch.setattr(command, "find_faces", find)
    patch.setattr(metric_suite, "is_installed", lambda package: package == "dlib")


@pytest.mark.slow
def test_two_ranks_find_what_one_finds(
    tmp_path: Path, checkpoints: list[Path], shards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_made_up_faces(monkeypatch)
    arguments = [shards, *write_weights(tmp_path), "batch_size=2", "faces.detect=true"]
    arguments += ["slices.people.pattern='photo [0-4]$'", "metrics=[psnr,ssim,lpips_alex,l1,rfid]"]
    torch.multiprocessing.spawn(run_rank, (tmp_path, free_port(), arguments), nprocs=2)
    assert run_evaluate(checkpoints, tmp_path / "one_rank", *arguments) == 0
    together, alone = (read_evaluation(tmp_path / name) for name in ("two_ranks", "one_rank"))
    assert_same(together, alone)
    sizes = alone.group_sizes()
    assert (sizes[ALL], sizes["people"]) == (17, 5)
    assert 0 < sizes[WITH_FACE] < 17
    assert sizes[WITH_FACE] < sizes[FACE_BOXES] < 34
    assert set(alone.checkpoints[0].face_values) == {"face_psnr", "face_lpips_alex"}
    for name in ("images.csv", "faces.csv"):
        heads = [
            (tmp_path / ranks / name).read_text().splitlines()[0]
            for ranks in ("one_rank", "two_ranks")
        ]
        assert heads[0] == heads[1]
    assert alone.checkpoints[0].rfid["people"].count == 5
    assert alone.checkpoints[0].rfid[WITH_FACE].count == sizes[WITH_FACE]


def test_ranks_that_cannot_meet_are_told_how(
    tmp_path: Path,
    checkpoints: list[Path],
    shards: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert run_evaluate(checkpoints, tmp_path / "out", shards, PLAIN) == USER_ERROR
    assert "the environment lacks MASTER_ADDR and MASTER_PORT. Start" in capsys.readouterr().err


def test_ranks_share_the_images() -> None:
    assert [sum(ProcessRank(rank, 2, 0).select([4, 4, 4, 1])) for rank in range(2)] == [8, 5]


# Results.


def test_the_table_is_printed_and_written(evaluated: Evaluated) -> None:
    text = evaluated.printed
    assert "17 images of " in text
    assert re.search(r"rFID +[\d.]+ \(N = 17 \*\) +[\d.]+ \(N = 17 \*\)", text)
    assert "rFID by six features of a seed." in text
    assert max(map(len, text.replace(str(evaluated.folder.parent), "").splitlines())) <= 100
    plain = json.loads((evaluated.folder / "evaluation.json").read_text())
    assert plain["group_sizes"] == {"all": 17, "people": 0}


def test_pictures_are_the_models(evaluated: Evaluated) -> None:
    found = read_evaluation(evaluated.folder)
    images = images_of_shards()
    assert 2 <= len(found.pictures) <= 17
    tokenizer = load_tokenizer(evaluated.checkpoints[1], torch.device("cpu"), "fp32")
    for kept in found.pictures:
        own = images[kept.row]
        np.testing.assert_array_equal(kept.original, own.permute(1, 2, 0).numpy())
        tokens = tokenizer.encode(own[None], "signed")
        pixels = tokenizer.decode(tokens, (16, 16), "signed")[0].permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(kept.reconstructions["two"], pixels)


def test_folders_are_read_too_and_bad_images_named(
    tmp_path: Path, checkpoints: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.png").write_bytes(image_bytes(40, 36, seed=number))
    (folder / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    (folder / "1.txt").write_text("a woman")
    assert run_evaluate(checkpoints, tmp_path / "out", f"folder={folder}", PLAIN) == 0
    said = capsys.readouterr()
    found = read_evaluation(tmp_path / "out")
    assert found.images.numbers.tolist() == [0, 1, 3, 4]
    assert (found.images.widths[0], found.images.heights[0]) == (36, 40)
    assert found.images.slices["people"].tolist() == [False, True, False, False]
    (bad,) = found.dataset.unreadable
    assert bad.startswith("2.png: ")
    assert "cannot be read: 2.png" in said.err
    assert "1 images could not be read:\n  2.png" in said.out


def test_slices_of_a_column_that_no_image_has_are_named(
    tmp_path: Path, checkpoints: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    samples = [
        sample | {"json": json.dumps({"license": f"cc-{number % 2}"}).encode()}
        for number, sample in enumerate(image_samples(4))
    ]
    shard = write_shard(tmp_path / "a.tar", samples)
    more = ("+slices.odd={column: license, pattern: 1}", "+slices.no={column: size, pattern: 1}")
    given = f"data.val_shards={shard}"
    assert run_evaluate(checkpoints, tmp_path / "out", given, PLAIN, *more) == 0
    found = read_evaluation(tmp_path / "out")
    assert found.images.slices["odd"].tolist() == [False, True, False, True]
    assert "left out: slice no: no image has the column size" in capsys.readouterr().out


# Missing weights and wrong files.


def test_what_cannot_be_fetched_is_left_out_by_name(
    tmp_path: Path,
    checkpoints: list[Path],
    shards: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from vqgan_train.losses.lpips_weights import LpipsWeightsNotFoundError
    from vqgan_train.metrics import inception as inception_weights
    from vqgan_train.system.errors import CheckpointError

    long = "no network, as a library says at length: " + "word " * 60 + "to its last word"

    def no_network(*_: Any) -> Any:
        raise CheckpointError(long)

    def no_index(*_: Any) -> Any:
        raise OSError("no pip")

    def no_weights(*_: Any) -> Any:
        raise LpipsWeightsNotFoundError("no index")

    monkeypatch.setattr(metric_suite, "fetch_checkpoint", no_network)
    monkeypatch.setattr(inception_weights, "downloaded", no_index)
    monkeypatch.setattr(metric_suite, "find_lpips_weights", no_weights)
    monkeypatch.setattr(metric_suite, "is_installed", lambda _: False)
    assert run_evaluate(checkpoints, tmp_path / "out", shards, "faces.detect=true") == 0
    found = read_evaluation(tmp_path / "out")
    assert {left.metric for left in found.left_out} >= {"rfid", "lpips_vgg", "lpips_alex", "faces"}
    assert set(found.checkpoints[0].values) == {"psnr", "ssim", "l1"}
    assert found.checkpoints[0].rfid == {}
    text = capsys.readouterr().out
    words = " ".join(text.split())
    assert f"left out: rFID: the Inception weights could not be fetched ({long}; no pip)" in words
    assert f"({long}; no pip)" in " ".join((tmp_path / "out" / "page.html").read_text().split())
    assert "left out: LPIPS AlexNet: no index" in text
    assert "left out: faces: dlib is not installed: pip install" in text


def test_weights_of_ones_own_are_named_by_their_hash(evaluated: Evaluated) -> None:
    named = read_evaluation(evaluated.folder).evaluators
    assert named.keys() >= {"lpips_vgg", "lpips_alex"}
    alexnet = evaluated.folder.parent / "alexnet.safetensors"
    digest = weights_sha256(safetensors.torch.load_file(alexnet))[:8]
    own = f"LPIPS v0.1, AlexNet (weights sha256 {digest}..., not the published ones)"
    assert named["lpips_alex"] == own
    assert named["lpips_vgg"].endswith("..., not the published ones)")
    assert f"LPIPS AlexNet by {own}." in evaluated.printed
    assert own in (evaluated.folder / PAGE_FILE).read_text()


def test_published_weights_go_by_the_networks_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    wanted = RequestedMetrics(["lpips_vgg", "lpips_alex"], faces=False, slices=[])
    found, _ = load_metric_suite(wanted, torch.device("cpu"))
    names = {metric: str(evaluator) for metric, evaluator in found.evaluators.items()}
    assert names == {"lpips_vgg": "LPIPS v0.1, VGG16", "lpips_alex": "LPIPS v0.1, AlexNet"}


@pytest.mark.parametrize("setting", ["lpips_weights", "alexnet_weights"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<html>", "it is a file of 6 bytes that starts with b'<html>'"),
        (safetensors.torch.save({"a": torch.zeros(1)}), "LPIPS weight convolutions.0.weight is"),
        (
            safetensors.torch.save({"convolutions.0.weight": torch.zeros(2)}),
            "convolutions.0.weight is (2,), expected: (64, 3, ",
        ),
    ],
)
def test_other_weights_than_a_networks_are_an_error_of_one_screen(
    tmp_path: Path,
    checkpoints: list[Path],
    shards: str,
    setting: str,
    content: bytes,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "wrong").write_bytes(content)
    metric = "lpips_vgg" if setting == "lpips_weights" else "lpips_alex"
    given = (f"{setting}={tmp_path}/wrong", f"metrics=[{metric}]")
    assert run_evaluate(checkpoints, tmp_path / "out", shards, *given) == USER_ERROR
    error = capsys.readouterr().err
    assert f"Error: {setting}={tmp_path}/wrong cannot be used: " in error
    assert said in error
    assert "Accepted: our cached lpips_" in error
    assert "Traceback" not in error


@pytest.mark.parametrize("setting", ["lpips_weights", "alexnet_weights"])
def test_a_file_that_was_named_must_be_there(
    tmp_path: Path, checkpoints: list[Path], shards: str, setting: str
) -> None:
    named = f"{setting}={tmp_path}/none.pth"
    metric = "lpips_vgg" if setting == "lpips_weights" else "lpips_alex"
    assert (
        run_evaluate(checkpoints, tmp_path / "out", shards, named, f"metrics=[{metric}]")
        == USER_ERROR
    )


def test_only_evaluations_are_replaced(
    tmp_path: Path,
    evaluated: Evaluated,
    checkpoints: list[Path],
    shards: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = Path(shutil.copytree(evaluated.folder, tmp_path / "out"))
    assert run_evaluate(checkpoints, output, shards, PLAIN, "pictures=1") == 0
    kept = read_evaluation(output).pictures
    before = read_evaluation(evaluated.folder).pictures
    assert len(kept) < len(before)
    for folder, pictures in ((output, kept), (evaluated.folder, before)):
        assert len(list((folder / "pictures").glob("*.png"))) == 3 * len(pictures)
    (output / "images.csv").unlink()
    assert run_evaluate(checkpoints, output, shards, PLAIN) == USER_ERROR
    assert "holds files that no evaluation wrote" in capsys.readouterr().err


def test_a_size_that_a_model_cannot_take_is_refused_first(
    tmp_path: Path, checkpoints: list[Path], shards: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ("resize=33", "image_size=33", PLAIN)
    assert run_evaluate(checkpoints, tmp_path / "out", shards, *sizes) == USER_ERROR
    assert "use multiples of 2" in capsys.readouterr().err
