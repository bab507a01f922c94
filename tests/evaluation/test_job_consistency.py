"""Processes with different images, weights or settings stop and name the differences by rank."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from factories import image_bytes
from tiny_evaluate import SMALL, with_tiny_features, write_weights
from tiny_runs import compose_settings
from tiny_tokens import tiny_checkpoint, tiny_shards

from vqgan_train.config.evaluation import EvaluateConfig
from vqgan_train.evaluation import job_consistency
from vqgan_train.evaluation.evaluate import prepare
from vqgan_train.evaluation.job import EvaluationJob
from vqgan_train.evaluation.job_consistency import job_facts, require_same_job
from vqgan_train.system.errors import UserError
from vqgan_train.system.launch import ProcessRank

RANKS = 3


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with_tiny_features(monkeypatch)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of one machine with a checkpoint, images and weights."""
    folder = tmp_path_factory.mktemp("machine")
    (folder / "photos").mkdir(parents=True)
    for number in range(2):
        (folder / "photos" / f"{number}.png").write_bytes(image_bytes(seed=number))
    tiny_checkpoint(folder)
    tiny_shards(folder / "shards")
    write_weights(folder)
    return folder


@pytest.fixture
def other(machine: Path, tmp_path: Path) -> Path:
    """Folder of another machine with newer copies of the same files."""
    return Path(shutil.copytree(machine, tmp_path / "other", copy_function=shutil.copyfile))


def job_of(machine: Path, *overrides: str) -> EvaluationJob:
    given = {override.split("=")[0] for override in overrides}
    images = [] if "folder" in given else [f"shards={machine}/shards/*.tar"]
    weights = [
        f"lpips_weights={machine}/vgg.safetensors",
        f"alexnet_weights={machine}/alexnet.safetensors",
    ]
    own = [f"checkpoint={machine}/tiny.ckpt", "output=out", "faces.detect=false"]
    defaults = [setting for setting in (*own, *SMALL) if setting.split("=")[0] not in given]
    config = compose_settings("evaluate", EvaluateConfig, *defaults, *images, *weights, *overrides)
    return prepare(config, ProcessRank(0, 1, 0))


def refused(one: EvaluationJob, last: EvaluationJob, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the error message if the last of three ranks has another job."""
    facts = [job_facts(one), job_facts(one), job_facts(last)]
    monkeypatch.setattr(job_consistency, "all_gather_objects", lambda *_: facts)
    with pytest.raises(UserError) as raised:
        require_same_job(one, ProcessRank(0, RANKS, 0))
    return str(raised.value)


@pytest.mark.parametrize("images", ["shards", "folder"])
def test_the_same_files_in_another_place_are_the_same(
    machine: Path, other: Path, images: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [
        job_of(place, *([f"folder={place}/photos"] if images == "folder" else []))
        for place in (machine, other)
    ]
    facts: list[Any] = [job_facts(job) for job in jobs]
    assert facts[0] == facts[1]
    monkeypatch.setattr(job_consistency, "all_gather_objects", lambda *_: facts)
    require_same_job(jobs[0], ProcessRank(0, 2, 0))


def test_other_weights_of_the_same_name_are_refused(
    machine: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (other / "tiny.ckpt").unlink()
    tiny_checkpoint(other, codebook_size=32)
    said = refused(job_of(machine), job_of(other), monkeypatch)
    assert "checkpoint tiny: weights " in said
    assert " in fp32 on rank 0, 1; weights " in said
    assert " in fp32 on rank 2\n" in said
    assert len(said.splitlines()) == 3


def test_other_weights_of_a_metric_are_refused(
    machine: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytearray((other / "alexnet.safetensors").read_bytes())
    content[-1] ^= 1
    (other / "alexnet.safetensors").write_bytes(content)
    said = refused(job_of(machine), job_of(other), monkeypatch)
    assert "weights of lpips_alex: LPIPS v0.1, AlexNet, " in said
    assert len(said.splitlines()) == 3


@pytest.mark.parametrize("images", ["shards", "folder"])
def test_other_images_are_refused(
    machine: Path, other: Path, images: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (other / "photos" / "1.png").write_bytes(image_bytes(30, 30, seed=5))
    shutil.copyfile(other / "shards" / "00002.tar", other / "shards" / "00003.tar")
    jobs = [
        job_of(place, *([f"folder={place}/photos"] if images == "folder" else []))
        for place in (machine, other)
    ]
    said = refused(*jobs, monkeypatch)
    assert "  images: 17, fingerprint " in said or "  images: 2, fingerprint " in said
    assert " on rank 2\n" in said


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "metrics=[psnr]",
            "metrics: l1, lpips_alex, lpips_vgg, psnr, rfid, ssim on rank 0, 1; psnr ",
        ),
        ("metrics=[psnr,ssim,l1,rfid,lpips_alex]", "weights of lpips_vgg: LPIPS v0.1, VGG16, "),
        ("resize=40", "sizes: resize 32, image_size 32 on rank 0, 1; resize 40, image_size 32 on"),
        ("batch_size=2", "batches: 6 of 4 on rank 0, 1; 10 of 2 on rank 2"),
        ("pixel_range=unit", "pixel_range: signed on rank 0, 1; unit on rank 2"),
        ("precision=bf16", " in bf16 on rank 2"),
        ("slices.people.pattern=dog", "; caption has dog on rank 2"),
        ("slices.people=null", "; none on rank 2"),
    ],
)
def test_other_settings_are_refused(
    machine: Path, override: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said in refused(job_of(machine), job_of(machine, override), monkeypatch)


def test_one_process_alone_agrees_with_itself(machine: Path) -> None:
    require_same_job(job_of(machine), ProcessRank(0, 1, 0))
