"""The decode command: pictures of the tokens, by the checkpoint and in the range they are from."""

from pathlib import Path

import numpy as np
import pytest
import torch
from factories import tiny_vqgan
from PIL import Image
from pyarrow import parquet
from tiny_exports import tiny_networks, write_checkpoint
from tiny_tokens import run_decode, run_encode, tiny_checkpoint, tiny_shards, tokens_of

from vqgan_train import decode as command
from vqgan_train.checkpoint import FORMATS as CHECKPOINT_FORMATS
from vqgan_train.command import USER_ERROR
from vqgan_train.config import DecodeConfig, setting_names
from vqgan_train.models import VQGAN
from vqgan_train.tokens.formats import FORMATS


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path)


def encoded(folder: Path, checkpoint: Path, *arguments: str) -> Path:
    """A folder of tokens of three shards."""
    tiny_shards(folder / "shards")
    assert run_encode(checkpoint, folder / "tokens", f"shards={folder}/shards/*", *arguments) == 0
    return folder / "tokens"


def pictures(folder: Path) -> np.ndarray:
    files = sorted(folder.glob("*/*.png"))
    return np.stack([np.asarray(Image.open(file)) for file in files])


def test_every_setting_is_read() -> None:
    source = Path(command.__file__).read_text()
    assert [name for name in setting_names(DecodeConfig) if f"config.{name}" not in source] == []


@pytest.mark.parametrize(
    ("token_format", "pixel_range"), list(zip(FORMATS, ("signed", "unit", "unit"), strict=True))
)
@torch.inference_mode()
def test_pictures_are_what_the_model_decodes_in_the_range_of_the_tokens(
    tmp_path: Path, checkpoint: Path, token_format: str, pixel_range: str
) -> None:
    tokens = encoded(tmp_path, checkpoint, f"pixel_range={pixel_range}", f"format={token_format}")
    output = tmp_path / "pictures"
    assert run_decode(checkpoint, tokens, output, "batch_size=4") == 0
    decoded = VQGAN.from_checkpoint(checkpoint).decode(torch.from_numpy(tokens_of(tokens)).long())
    unit = decoded if pixel_range == "unit" else (decoded + 1) / 2
    expected = (unit.clamp(0, 1) * 255).permute(0, 2, 3, 1).numpy()
    assert np.abs(pictures(output).astype(float) - expected).max() <= 0.5 + 1e-3
    names = [str(file.relative_to(output)) for file in sorted(output.glob("*/*.png"))]
    assert names[4:6] == ["001/000004_000004.png", "002/000000_000005.png"]
    assert len(names) == 17


def test_it_stops_at_as_many_images_as_asked_for(tmp_path: Path, checkpoint: Path) -> None:
    tokens = encoded(tmp_path, checkpoint)
    output = tmp_path / "pictures"
    assert run_decode(checkpoint, tokens, output, "batch_size=4", "max_images=7") == 0
    assert len(pictures(output)) == 7


@pytest.mark.parametrize("name", CHECKPOINT_FORMATS)
def test_the_same_weights_in_another_format_will_do(
    tmp_path: Path, checkpoint: Path, name: str
) -> None:
    tokens = encoded(tmp_path, checkpoint)
    target = CHECKPOINT_FORMATS[name]
    folder = tmp_path / "export"
    folder.mkdir()
    target.write(tiny_networks(discriminator=False), {}, folder)
    output = tmp_path / "pictures"
    assert run_decode(folder / target.weights_file, tokens, output, "max_images=1") == 0


def test_other_weights_are_refused_unless_allowed(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = encoded(tmp_path, checkpoint)
    networks = tiny_networks(discriminator=False)
    networks.generator["quant_conv.bias"][0] += 1
    other = write_checkpoint(tmp_path / "other.ckpt", networks)
    output = tmp_path / "pictures"
    assert run_decode(other, tokens, output) == USER_ERROR
    message = capsys.readouterr().err
    assert "were made by tiny.ckpt" in message
    assert "not by other.ckpt" in message
    assert "allow_other_checkpoint=true" in message
    assert not output.exists()
    assert run_decode(other, tokens, output, "allow_other_checkpoint=true", "max_images=1") == 0


def test_another_codebook_size_is_refused_even_if_other_weights_are_allowed(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = encoded(tmp_path, checkpoint)
    other = write_checkpoint(tmp_path / "other.ckpt", tiny_networks(codebook_size=128))
    output = tmp_path / "pictures"
    assert run_decode(other, tokens, output, "allow_other_checkpoint=true") == USER_ERROR
    assert "64 codes, f = 2), not by other.ckpt" in capsys.readouterr().err


def test_files_that_are_no_tokens_are_refused(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = encoded(tmp_path, checkpoint)
    (shard,) = (tmp_path / "shards").glob("00000.tar")
    parquet.write_table(
        parquet.read_table(tokens / "001.parquet").replace_schema_metadata({}),
        tmp_path / "bare.parquet",
    )
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    (tmp_path / "empty").mkdir()
    said = {
        shard: "does not say how its tokens were made",
        tmp_path / "bare.parquet": "does not say how its tokens were made",
        tmp_path / "broken.parquet": "cannot be read as parquet",
        tmp_path / "empty": "should hold token files of one format",
        tmp_path / "gone.parquet": "do not exist",
        checkpoint: "is no file of tokens",
    }
    for path, message in said.items():
        assert run_decode(checkpoint, path, tmp_path / "pictures") == USER_ERROR
        assert message in capsys.readouterr().err


def test_a_token_that_is_no_code_is_named(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = encoded(tmp_path, checkpoint, "format=npy")
    array = np.load(tokens / "001.npy")
    array[2, 5] = 64
    np.save(tokens / "001.npy", array)
    assert run_decode(checkpoint, tokens, tmp_path / "pictures") == USER_ERROR
    assert "000002 in " in capsys.readouterr().err


def test_a_key_with_a_folder_in_it_is_a_file_name(tmp_path: Path) -> None:
    from vqgan_train.decoding import picture_name

    assert picture_name(3, "a/b/c") == "000003_a_b_c.png"


def test_the_tokenizer_of_the_tests_uses_many_codes(tmp_path: Path, checkpoint: Path) -> None:
    assert len(np.unique(tokens_of(encoded(tmp_path, checkpoint)))) > 20
    assert tiny_vqgan().downsampling == 2
