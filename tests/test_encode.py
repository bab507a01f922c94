"""The encode command: each sample once, the original's tokens, and a killed command resumes."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from clear_tokens import CLEAR_GAP, MOST_DRAWS, has_clear_tokens, token_gaps
from factories import FULL_ARCHITECTURE, TINY_ARCHITECTURE, image_bytes, image_samples, write_shard
from omegaconf.errors import MissingMandatoryValue
from pyarrow import parquet
from real_photos import PHOTOS
from reference import peer_vqgan
from tiny_runs import compose_settings
from tiny_tokens import (
    SMALL,
    contents,
    metadata_of,
    rows_of,
    run_encode,
    tiny_checkpoint,
    tiny_samples,
    tiny_shards,
    token_files,
    tokens_of,
)
from torch import Tensor

from vqgan_train.cli import USER_ERROR, explain, user_can_fix
from vqgan_train.config.checks import setting_names
from vqgan_train.config.tokens import (
    EncodeConfig,
    Interpolation,
    PixelRange,
    TokenFormat,
    TokenPrecision,
)
from vqgan_train.images.decoding import decode
from vqgan_train.images.pixels import PIXEL_RANGES
from vqgan_train.images.sample import image_bytes as encoded_image
from vqgan_train.images.transforms import (
    INTERPOLATIONS,
    ImageTransform,
)
from vqgan_train.models import VQGAN, VectorQuantizer
from vqgan_train.shards.index import index_shards
from vqgan_train.system.devices import PRECISIONS
from vqgan_train.system.errors import UserError
from vqgan_train.tokens import encode as encoding
from vqgan_train.tokens.formats import FORMATS

GIVEN = (
    "checkpoint=a.ckpt", "output=out", "format=parquet", "pixel_range=signed", "shards=a.tar",
)  # fmt: skip

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests away from the user's cache, and from a scheduler's variables."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path)


@pytest.fixture
def shards(tmp_path: Path) -> str:
    return f"shards={tiny_shards(tmp_path / 'shards')[0].parent}/*.tar"


# The settings.


def composed(*overrides: str) -> EncodeConfig:
    return compose_settings("encode", EncodeConfig, *overrides)


def test_the_choices_are_those_that_there_are() -> None:
    assert [choice.value for choice in TokenFormat] == list(FORMATS)
    assert [choice.value for choice in PixelRange] == list(PIXEL_RANGES)
    assert [choice.value for choice in Interpolation] == list(INTERPOLATIONS)
    assert [choice.value for choice in TokenPrecision] == list(PRECISIONS)


def test_every_setting_is_read_and_what_only_the_user_knows_must_be_given() -> None:
    source = (ROOT / "vqgan_train" / "tokens" / "encode.py").read_text()
    assert [name for name in setting_names(EncodeConfig) if f"config.{name}" not in source] == []
    for missing in GIVEN[:4]:
        name = missing.split("=")[0]
        with pytest.raises(MissingMandatoryValue) as raised:
            composed(*(setting for setting in GIVEN if setting != missing))
        assert explain(raised.value, EncodeConfig).startswith(f"{name} has no value yet.")


def test_the_pixel_range_has_no_default_and_its_message_says_what_it_is() -> None:
    with pytest.raises(MissingMandatoryValue) as raised:
        composed(*(setting for setting in GIVEN if not setting.startswith("pixel_range")))
    message = explain(raised.value, EncodeConfig)
    assert "signed gives the model pixels in [-1, 1], as in training" in message
    assert "unit gives it pixels in [0, 1], as DALL-E mini did" in message


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["folder=photos"],
            "Give exactly one of shards=..., folder=... and tables=...; given: shards and folder.",
        ),
        (["shards=null"], "given: none."),
        (["checkpoint=''"], "checkpoint is empty"),
        (["output=''"], "output is empty"),
        (["samples_per_file=0"], "samples_per_file is 0; it must be at least 1"),
        (["batch_size=0"], "batch_size is 0"),
        (
            ["image_size=0"],
            "image_size is 0; it must be a number of pixels",
        ),
        (["image_size=[16,16,16]"], "image_size is [16, 16, 16]; it must be"),
        (["image_size=large"], "image_size is large; it must be"),
        (["max_bad_fraction=1"], "max_bad_fraction is 1.0; it must be in [0, 1)"),
        (["cache_gb=0"], "cache_gb is 0"),
        (["stall_seconds=0"], "stall_seconds is 0"),
        (["attempts=0"], "attempts is 0"),
        (["num_workers=-1"], "num_workers is -1"),
        (["resize=128"], "resize is 128, smaller than image_size=256 x 256"),
        (["image_size=[64,512]", "resize=256"], "resize is 256, smaller than image_size=64 x 512"),
    ],
)
def test_a_mistake_is_refused_with_what_to_change(overrides: list[str], message: str) -> None:
    names = {override.split("=")[0] for override in overrides}
    kept = [setting for setting in GIVEN if setting.split("=")[0] not in names]
    with pytest.raises(UserError) as raised:
        composed(*kept, *overrides)
    assert user_can_fix(raised.value)
    assert message in str(raised.value)


# The tokens.


@torch.inference_mode()
def original_tokens(model: Any, images: Tensor) -> np.ndarray:
    """Encode images with the original's VQModel; one row of tokens per image."""
    return model.encode(images)[2][2].view(len(images), -1).numpy()


def save_peer(model: Any, path: Path) -> Path:
    torch.save({"state_dict": model.state_dict()}, path)
    return path


def as_model_input(picture: bytes, pixel_range: str) -> Tensor:
    pixels = decode(picture)[None].float()
    return pixels / 127.5 - 1 if pixel_range == "signed" else pixels / 255


def pictures_with_clear_tokens(model: Any, pixel_range: str) -> list[bytes]:
    """Six encoded images of 16 x 16 pixels; see `clear_tokens`."""
    drawn = (image_bytes(16, 16, seed=seed) for seed in range(MOST_DRAWS))
    clear = (p for p in drawn if has_clear_tokens(model, as_model_input(p, pixel_range)))
    return [next(clear) for _ in range(6)]


@pytest.mark.parametrize("pixel_range", PIXEL_RANGES)
def test_tokens_are_those_of_the_original(tmp_path: Path, pixel_range: str) -> None:
    model = peer_vqgan(**TINY_ARCHITECTURE).eval()
    path = save_peer(model, tmp_path / "peer.ckpt")
    pictures = pictures_with_clear_tokens(model, pixel_range)
    samples = [{"__key__": f"{n}", "png": picture} for n, picture in enumerate(pictures)]
    shard = write_shard(tmp_path / "shard.tar", samples)
    output = tmp_path / "out"
    assert run_encode(path, output, f"shards={shard}", f"pixel_range={pixel_range}") == 0
    images = torch.cat([as_model_input(picture, pixel_range) for picture in pictures])
    assert len(np.unique(tokens_of(output))) > 20
    assert np.array_equal(tokens_of(output), original_tokens(model, images))


@pytest.mark.slow
def test_tokens_of_photos_are_those_of_the_original_at_full_size(tmp_path: Path) -> None:
    if not PHOTOS.exists():
        pytest.skip(f"there are no photos at {PHOTOS}")
    model = peer_vqgan(**FULL_ARCHITECTURE).eval()
    path = save_peer(model, tmp_path / "peer.ckpt")
    (index,) = index_shards([PHOTOS])
    photos = [index.read(place) for place in range(2)]
    shard = write_shard(
        tmp_path / "shard.tar",
        [{k: v for k, v in photo.items() if not k.startswith("__u")} for photo in photos],
    )
    transform = ImageTransform(256, 256)
    pixels = [transform.pixels(encoded_image(photo)) for photo in photos]
    photo_pixels = torch.stack(pixels).float()
    both = {"signed": photo_pixels / 127.5 - 1, "unit": photo_pixels / 255}
    for pixel_range, images in both.items():
        output = tmp_path / pixel_range
        sizes = ("resize=256", "image_size=256", f"pixel_range={pixel_range}")
        assert run_encode(path, output, f"shards={shard}", *sizes) == 0
        tokens = tokens_of(output)
        assert tokens.shape == (2, 256)
        assert len(np.unique(tokens)) > 50
        # Between 16,384 codes a few positions have no clear nearest one.
        is_clear = (token_gaps(model, images) > CLEAR_GAP).numpy()
        assert is_clear.mean() > 0.99
        assert np.array_equal(tokens[is_clear], original_tokens(model, images)[is_clear])


def test_parquet_is_as_dalle_mini_reads_it(tmp_path: Path, checkpoint: Path, shards: str) -> None:
    output = tmp_path / "out"
    assert run_encode(checkpoint, output, shards) == 0
    assert [file.name for file in token_files(output)] == [f"00{n}.parquet" for n in (1, 2, 3)]
    tables = [parquet.read_table(file) for file in token_files(output)]
    schema = tables[0].schema
    kinds = {field.name: str(field.type) for field in schema}
    encoding = kinds.pop("encoding")
    assert encoding.startswith("list<")
    assert ": int64" in encoding
    assert kinds == dict.fromkeys(("caption", "key", "source"), "string")
    assert schema.names[:2] == ["caption", "encoding"]
    rows = [row for table in tables for row in table.to_pylist()]
    assert [row["key"] for row in rows] == [f"{n:06d}" for n in range(17)]
    assert [row["caption"] for row in rows] == [f"photo {n}" for n in range(17)]
    sources = [f"{n:05d}.tar" for n, size in enumerate((5, 9, 3)) for _ in range(size)]
    assert [row["source"] for row in rows] == sources
    assert {len(row["encoding"]) for row in rows} == {64}
    said = json.loads(schema.metadata[b"vqgan_train"])
    assert said["checkpoint_sha256"] == sha256(checkpoint)
    assert (
        said
        | {
            "pixel_range": "signed",
            "codebook_size": 64,
            "downsampling": 2,
            "image_size": [16, 16],
            "grid": [8, 8],
            "resize": [16, 16],
            "interpolation": "bilinear",
            "crop": "center",
            "precision": "fp32",
        }
        == said
    )


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@torch.inference_mode()
def test_every_sample_has_its_own_tokens_in_every_format(
    tmp_path: Path, checkpoint: Path, shards: str
) -> None:
    model = VQGAN.from_checkpoint(checkpoint)
    transform = ImageTransform(16, 16)
    images = [transform(s["png"]) for s in tiny_samples()]
    assert has_clear_tokens(model, torch.stack(images))
    expected = torch.cat([model.encode(image[None]) for image in images]).numpy()
    for name in FORMATS:
        output = tmp_path / name
        assert run_encode(checkpoint, output, shards, f"format={name}", "num_workers=2") == 0
        rows = rows_of(output)
        assert [row.labels.key for row in rows] == [f"{n:06d}" for n in range(17)]
        assert [row.labels.caption for row in rows] == [f"photo {n}" for n in range(17)]
        assert np.array_equal(tokens_of(output), expected)
        said = {metadata_of(file).to_json() for file in token_files(output)}
        assert len(said) == 1


def test_a_shorter_precision_changes_few_tokens_and_is_written_down(
    tmp_path: Path, checkpoint: Path, shards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtypes: set[torch.dtype] = set()
    nearest = VectorQuantizer.nearest

    def remember(self: VectorQuantizer, latents: Tensor) -> Tensor:
        dtypes.add(latents.dtype)
        return nearest(self, latents)

    monkeypatch.setattr(VectorQuantizer, "nearest", remember)
    for precision, dtype in {"fp32": torch.float32, "bf16": torch.bfloat16}.items():
        dtypes.clear()
        assert run_encode(checkpoint, tmp_path / precision, shards, f"precision={precision}") == 0
        assert dtypes == {dtype}
    exact, short = tokens_of(tmp_path / "fp32"), tokens_of(tmp_path / "bf16")
    assert (exact == short).mean() > 0.9
    metadata = metadata_of(tmp_path / "bf16" / "001.parquet")
    assert metadata.precision == "bf16"


@pytest.mark.parametrize("interpolation", ["bilinear", "lanczos"])
def test_rectangles_are_encoded_and_say_so(
    tmp_path: Path, checkpoint: Path, shards: str, interpolation: str
) -> None:
    output = tmp_path / "out"
    sizes = ("image_size=[12,20]", "resize=[16,24]", f"interpolation={interpolation}")
    assert run_encode(checkpoint, output, shards, *sizes) == 0
    metadata = metadata_of(output / "001.parquet")
    assert (metadata.image_size, metadata.grid) == ([12, 20], [6, 10])
    assert (metadata.resize, metadata.interpolation) == ([16, 24], interpolation)
    transform = ImageTransform((16, 24), (12, 20), interpolation=interpolation)
    images = torch.stack([transform(s["png"]) for s in tiny_samples()])
    model = VQGAN.from_checkpoint(checkpoint)
    assert has_clear_tokens(model, images)
    with torch.inference_mode():
        expected = model.encode(images).numpy()
    assert np.array_equal(tokens_of(output), expected)


# Where samples come from.


def test_a_folder_is_encoded_with_the_captions_beside(tmp_path: Path, checkpoint: Path) -> None:
    folder = tmp_path / "photos"
    (folder / "b").mkdir(parents=True)
    for number, name in enumerate(("c.png", "b/a.png", "d.png")):
        (folder / name).write_bytes(image_bytes(seed=number))
    (folder / "c.txt").write_text("a caption\n")
    output = tmp_path / "out"
    assert run_encode(checkpoint, output, f"folder={folder}", "samples_per_file=2") == 0
    said = [tuple(row.labels) for row in rows_of(output)]
    assert sorted(said) == [
        ("000000000", "a caption", "c.png"),
        ("000000001", "", "d.png"),
        ("000000002", "", "b/a.png"),
    ]
    assert [file.name for file in token_files(output)] == ["001.parquet", "002.parquet"]


def write_table(table: Path, **columns: list[Any]) -> Path:
    parquet.write_table(pa.table(columns), table)
    return table


def test_a_table_of_paths_is_encoded(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(image_bytes())
    paths = ["b.png", "gone.png", str(tmp_path / "a.png"), None]
    captions = ["B", "C", None, "D"]
    table = write_table(tmp_path / "t.parquet", path=paths, caption=captions)
    output = tmp_path / "out"
    assert run_encode(checkpoint, output, f"tables={table}", "max_bad_fraction=0.5") == 0
    said = [tuple(row.labels) for row in rows_of(output)]
    assert said == [("000000000", "B", "b.png"), ("000000002", "", str(tmp_path / "a.png"))]
    printed = capsys.readouterr().out
    assert "encoded  2 of 4 images" in printed
    assert "captions 1 images have none" in printed
    assert "bad      2 images could not be read:\n         gone.png: " in printed


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"file": ["a"], "caption": ["b"]}, "has the columns file, caption, and no path"),
        ({"path": [1], "caption": ["b"]}, "holds int64, not strings"),
        ({"path": [""][:0], "caption": [""][:0]}, "null, not strings"),
    ],
)
def test_a_table_that_will_not_do_is_refused(
    tmp_path: Path,
    checkpoint: Path,
    columns: dict[str, list[Any]],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = write_table(tmp_path / "t.parquet", **columns)
    assert run_encode(checkpoint, tmp_path / "out", f"tables={table}") == USER_ERROR
    assert message in capsys.readouterr().err


def test_bad_images_are_counted_and_named_and_cost_nothing_else(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = image_samples(9)
    for number in (0, 5, 8):
        samples[number]["png"] = b"no image"
    shard = write_shard(tmp_path / "s.tar", samples)
    for workers in (0, 2):
        output = tmp_path / f"out{workers}"
        settings = (f"shards={shard}", f"num_workers={workers}", "max_bad_fraction=0.03")
        assert run_encode(checkpoint, output, *settings) == 0
        kept = [row.labels.key for row in rows_of(output)]
        assert kept == [f"{number:06d}" for number in (1, 2, 3, 4, 6, 7)]
        printed = capsys.readouterr()
        assert "encoded  6 of 9 images" in printed.out
        assert "s.tar/000005: no image format that PIL knows" in printed.out
        assert "cannot be read: s.tar/000005" in printed.err


def test_a_source_without_any_image_is_an_error(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = [{"__key__": f"{n}", "png": b"no image"} for n in range(3)]
    shard = write_shard(tmp_path / "s.tar", samples)
    settings = (f"shards={shard}", "max_bad_fraction=0.5")
    assert run_encode(checkpoint, tmp_path / "out", *settings) == USER_ERROR
    assert "None of the 3 images could be read, for example s.tar/0: " in capsys.readouterr().err


def test_an_image_size_that_the_model_cannot_take_is_refused(
    tmp_path: Path, checkpoint: Path, shards: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert run_encode(checkpoint, output, shards, "image_size=15") == USER_ERROR
    assert "image_size is 15 x 15, but the model of tiny.ckpt" in capsys.readouterr().err
    assert not output.exists()


# Resuming.


def test_another_job_is_refused_in_the_same_folder(
    tmp_path: Path, checkpoint: Path, shards: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert run_encode(checkpoint, output, shards) == 0
    before = contents(output)
    (tmp_path / "other").mkdir()
    other = tiny_checkpoint(tmp_path / "other", codebook_size=32)
    refused = {
        "tokens' pixel_range was signed, is unit": (checkpoint, "pixel_range=unit"),
        "tokens' weights_sha256": (other,),
        "tokens' resize was [16, 16], is [18, 18]": (checkpoint, "resize=18"),
        "tokens' interpolation was bilinear, is lanczos": (checkpoint, "interpolation=lanczos"),
        "format was .parquet, is .npy": (checkpoint, "format=npy"),
        "batch_size was 4, is 3": (checkpoint, "batch_size=3"),
        "samples was": (checkpoint, shards.replace("*", "00000")),
    }
    for message, (path, *arguments) in refused.items():
        source = [] if any(a.startswith("shards") for a in arguments) else [shards]
        assert run_encode(path, output, *source, *arguments) == USER_ERROR
        assert message in capsys.readouterr().err
    assert contents(output) == before


def test_devices_of_two_kinds_do_not_mix(
    tmp_path: Path, checkpoint: Path, shards: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert run_encode(checkpoint, output, shards) == 0
    job = output / ".vqgan_train" / "job.json"
    job.write_text(job.read_text().replace('"cpu"', '"cuda"'))
    assert run_encode(checkpoint, output, shards) == USER_ERROR
    assert "device was cuda, is cpu" in capsys.readouterr().err


def test_a_folder_with_other_files_is_left_alone(
    tmp_path: Path, checkpoint: Path, shards: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "001.parquet").write_text("somebody's")
    assert run_encode(checkpoint, output, shards) == USER_ERROR
    assert "job.json: this command did not begin it" in capsys.readouterr().err
    assert list(contents(output)) == ["001.parquet"]


def test_what_is_done_is_not_done_again(
    tmp_path: Path, checkpoint: Path, shards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    assert run_encode(checkpoint, output, shards) == 0
    before = contents(output)
    (output / ".vqgan_train" / "002.json").unlink()  # as if killed before it was written
    (output / "002.parquet.0123abcd.partial").write_text("half")
    written: list[str] = []
    write = encoding.Output.write

    def write_and_tell(output: encoding.Output, chunk: str, *rest: Any) -> None:
        written.append(chunk)
        write(output, chunk, *rest)

    monkeypatch.setattr(encoding.Output, "write", write_and_tell)
    assert run_encode(checkpoint, output, shards) == 0
    assert written == ["002"]
    assert contents(output) == before


@pytest.mark.parametrize("launcher", ["torchrun", "slurm"])
def test_ranks_share_the_files_and_the_result_is_the_same(
    tmp_path: Path,
    checkpoint: Path,
    shards: str,
    launcher: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    many = (shards, "samples_per_file=4")
    assert run_encode(checkpoint, alone, *many) == 0
    srun = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
    names = ("RANK", "WORLD_SIZE") if launcher == "torchrun" else srun
    capsys.readouterr()
    for rank, done in ((2, 2), (0, 4), (1, 6)):
        monkeypatch.setenv(names[0], str(rank))
        monkeypatch.setenv(names[1], "3")
        assert run_encode(checkpoint, shared, *many) == 0
        printed = capsys.readouterr().out
        assert f"{done} of 6" in printed
        assert ("written by other processes" in printed) == (done < 6)
    assert contents(shared) == contents(alone)


def start(checkpoint: Path, output: Path, shards: str, token_format: str) -> subprocess.Popen[str]:
    arguments = (f"checkpoint={checkpoint}", f"output={output}", shards, "pixel_range=unit")
    others = [setting for setting in SMALL if not setting.startswith("num_workers")]
    words = [*arguments, *others, f"format={token_format}", "num_workers=1"]
    return subprocess.Popen(
        [sys.executable, "-m", "vqgan_train.encode", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output


@pytest.mark.slow
def test_killed_in_the_middle_and_started_again_it_writes_the_same_bytes(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(tmp_path)
    samples, num_shards = 40, 4
    for number in range(num_shards):
        items = image_samples(samples, first=number * samples)
        write_shard(tmp_path / "shards" / f"{number:05d}.tar", items)
    shards = f"shards={tmp_path}/shards/*.tar"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(checkpoint, whole, shards, "parquet"))
    kills = 0
    for part in ("001", "003"):
        process = start(checkpoint, killed, shards, "parquet")
        while not (killed / f"{part}.parquet").exists() and process.poll() is None:
            time.sleep(0.002)
        kills += process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        done = {file.name for file in token_files(killed)}
        assert all((whole / name).read_bytes() == (killed / name).read_bytes() for name in done)
    assert kills
    finish(start(checkpoint, killed, shards, "parquet"))
    assert contents(killed) == contents(whole)
    assert len(rows_of(killed)) == num_shards * samples


def test_a_file_that_is_half_written_never_has_its_name(
    tmp_path: Path, checkpoint: Path, shards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run_encode(checkpoint, whole, shards) == 0
    write_table = parquet.write_table

    def write_half(table: Any, file: Any) -> None:
        if table.num_rows == 9:
            file.write(b"PAR1")
            raise KeyboardInterrupt
        write_table(table, file)

    monkeypatch.setattr(parquet, "write_table", write_half)
    assert run_encode(checkpoint, broken, shards) != 0
    assert [file.name for file in token_files(broken)] == ["001.parquet"]
    monkeypatch.setattr(parquet, "write_table", write_table)
    assert run_encode(checkpoint, broken, shards) == 0
    assert contents(broken) == contents(whole)


def test_more_tokens_than_a_parquet_file_holds_are_refused_before_any_is_made(
    tmp_path: Path,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """2^31 of them take hours, and then its offsets of 32 bits overflow."""
    (shard, *_) = tiny_shards(tmp_path / "shards")  # of five images, 64 tokens each
    monkeypatch.setattr(encoding, "MAX_PARQUET_TOKENS", 4 * 64 + 63)
    assert run_encode(checkpoint, tmp_path / "out", f"shards={shard}") == USER_ERROR
    said = capsys.readouterr().err
    assert "5 images of 64 tokens" in said
    assert "Set samples_per_file to at most 4." in said
    assert run_encode(checkpoint, tmp_path / "out", f"shards={shard}", "samples_per_file=4") == 0


def test_a_shard_that_changed_stops_the_command(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (shard, *_) = tiny_shards(tmp_path / "shards")
    begin = encoding.begin_job

    def begin_then_change(*arguments: Any, **named: Any) -> None:
        begin(*arguments, **named)
        with shard.open("r+b") as file:
            file.write(b"\1" * 512)  # the header of the first sample alone

    monkeypatch.setattr(encoding, "begin_job", begin_then_change)
    for workers in (0, 2):
        output = tmp_path / f"out{workers}"
        code = run_encode(checkpoint, output, f"shards={shard}", f"num_workers={workers}")
        assert code == USER_ERROR
        assert "has changed since it was indexed" in capsys.readouterr().err
        assert token_files(output) == []
        shutil.rmtree(tmp_path / "cache")
        tiny_shards(tmp_path / "shards")
