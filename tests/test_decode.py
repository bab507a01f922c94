"""The decode command: pictures decoded with the checkpoint and pixel range of their tokens."""

import tempfile
from functools import cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from factories import tiny_vqgan
from PIL import Image
from pyarrow import parquet
from tiny_exports import tiny_networks, write_checkpoint
from tiny_tokens import contents, run_decode, run_encode, tiny_checkpoint, tiny_shards, tokens_of
from tqdm import tqdm

from vqgan_train.checkpoint.export_formats import FORMATS as CHECKPOINT_FORMATS
from vqgan_train.cli import USER_ERROR
from vqgan_train.config.checks import setting_names
from vqgan_train.config.tokens import DecodeConfig
from vqgan_train.models import VQGAN
from vqgan_train.tokens.formats import FORMATS

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path)


@cache
def token_files_by_name(*arguments: str) -> dict[str, bytes]:
    """Encode three shards once for all tests that ask for the same settings."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny_shards(folder / "shards")
        shards = f"shards={folder}/shards/*"
        assert run_encode(tiny_checkpoint(folder), folder / "tokens", shards, *arguments) == 0
        files = [file for file in (folder / "tokens").rglob("*") if file.is_file()]
        return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def encoded(folder: Path, *arguments: str) -> Path:
    """Return a folder with the tokens of three shards, which also lie in `folder`/shards."""
    tiny_shards(folder / "shards")
    for name, content in token_files_by_name(*arguments).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return folder / "tokens"


def pictures(folder: Path) -> np.ndarray:
    files = sorted(folder.glob("*/*.png"))
    return np.stack([np.asarray(Image.open(file)) for file in files])


def test_every_setting_is_read() -> None:
    source = (ROOT / "vqgan_train" / "tokens" / "decode.py").read_text()
    assert [name for name in setting_names(DecodeConfig) if f"config.{name}" not in source] == []


@pytest.mark.parametrize(
    ("token_format", "pixel_range"), list(zip(FORMATS, ("signed", "unit", "unit"), strict=True))
)
@torch.inference_mode()
def test_pictures_are_what_the_model_decodes_in_the_range_of_the_tokens(
    tmp_path: Path, checkpoint: Path, token_format: str, pixel_range: str
) -> None:
    tokens = encoded(tmp_path, f"pixel_range={pixel_range}", f"format={token_format}")
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
    tokens = encoded(tmp_path)
    output = tmp_path / "pictures"
    assert run_decode(checkpoint, tokens, output, "batch_size=4", "max_images=7") == 0
    assert len(pictures(output)) == 7


@pytest.mark.parametrize("name", CHECKPOINT_FORMATS)
def test_the_same_weights_in_another_format_will_do(
    tmp_path: Path, checkpoint: Path, name: str
) -> None:
    tokens = encoded(tmp_path)
    target = CHECKPOINT_FORMATS[name]
    folder = tmp_path / "export"
    folder.mkdir()
    target.write(tiny_networks(discriminator=False), {}, folder)
    output = tmp_path / "pictures"
    assert run_decode(folder / target.weights_file, tokens, output, "max_images=1") == 0


def test_other_weights_are_refused_unless_allowed(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = encoded(tmp_path)
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
    tokens = encoded(tmp_path)
    other = write_checkpoint(tmp_path / "other.ckpt", tiny_networks(codebook_size=128))
    output = tmp_path / "pictures"
    assert run_decode(other, tokens, output, "allow_other_checkpoint=true") == USER_ERROR
    assert "64 codes, f = 2), not by other.ckpt" in capsys.readouterr().err


def test_files_that_are_no_tokens_are_refused(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = encoded(tmp_path)
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
        checkpoint: "is not a token file",
    }
    for path, message in said.items():
        assert run_decode(checkpoint, path, tmp_path / "pictures") == USER_ERROR
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([64, *[0] * 63], "has tokens from 0 to 64, but codes are from 0 to 63"),
        ([-1, *[0] * 63], "has tokens from -1 to 0, but codes are from 0 to 63"),
        ([0] * 63, "has 63 tokens, not 8 x 8"),
        ([0] * 49, "has 49 tokens, not 8 x 8"),
        ([], "has 0 tokens, not 8 x 8"),
    ],
)
def test_a_row_that_is_no_images_is_named(
    tmp_path: Path,
    checkpoint: Path,
    row: list[int],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tokens = encoded(tmp_path)
    table = parquet.read_table(tokens / "001.parquet")
    encoding = table["encoding"].to_pylist()
    encoding[2] = row
    column = pa.array(encoding, pa.list_(pa.int64()))
    parquet.write_table(table.set_column(1, "encoding", column), tokens / "001.parquet")
    assert run_decode(checkpoint, tokens, tmp_path / "pictures") == USER_ERROR
    said = capsys.readouterr().err
    assert f"Row 2 of {tokens}/001.parquet (000002) {message}" in said
    assert "Traceback" not in said


def bare(tokens: Path, folder: Path, *, columns: tuple[str, ...] = ("caption", "encoding")) -> Path:
    """A file as DALL-E mini's scripts left it: two columns, and nothing that says what they are."""
    folder.mkdir()
    table = parquet.read_table(tokens / "002.parquet", columns=list(columns))
    parquet.write_table(table.replace_schema_metadata({}), folder / "bare.parquet")
    return folder / "bare.parquet"


def test_tokens_that_do_not_say_their_range_are_decoded_in_the_one_given(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = encoded(tmp_path, "pixel_range=unit")
    file = bare(tokens, tmp_path / "dalle")
    assert run_decode(checkpoint, file, tmp_path / "refused") == USER_ERROR
    assert "If you know the pixel range in which they were made, set" in capsys.readouterr().err
    assert run_decode(checkpoint, file, tmp_path / "bare", "pixel_range=unit") == 0
    assert run_decode(checkpoint, tokens / "002.parquet", tmp_path / "said") == 0
    assert np.array_equal(pictures(tmp_path / "bare"), pictures(tmp_path / "said"))
    names = sorted(file.name for file in (tmp_path / "bare").glob("bare/*"))
    assert names == [f"{number:06d}.png" for number in range(9)]


def test_a_range_that_is_not_the_files_is_refused(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = encoded(tmp_path)
    assert run_decode(checkpoint, tokens, tmp_path / "out", "pixel_range=unit") == USER_ERROR
    assert "says that its tokens were made in the range signed" in capsys.readouterr().err


def test_bare_tokens_that_are_no_square_are_refused(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = encoded(tmp_path, "image_size=[12,16]", "resize=16")
    file = bare(tokens, tmp_path / "dalle")
    assert run_decode(checkpoint, file, tmp_path / "out", "pixel_range=unit") == USER_ERROR
    assert "its first row" in (said := capsys.readouterr().err)
    assert "has 48 tokens, which do not make a square" in said


@torch.inference_mode()
def test_rectangles_come_back_as_they_were(tmp_path: Path, checkpoint: Path) -> None:
    tokens = encoded(tmp_path, "image_size=[12,20]", "resize=null")
    assert run_decode(checkpoint, tokens, tmp_path / "out") == 0
    rows = torch.from_numpy(tokens_of(tokens)).long()
    decoded = VQGAN.from_checkpoint(checkpoint).decode(rows, (6, 10))
    expected = ((decoded + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1).numpy() * 255
    assert pictures(tmp_path / "out").shape == (17, 12, 20, 3)
    assert np.abs(pictures(tmp_path / "out") - expected).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("most", ["null", "7"])
def test_the_count_is_of_pictures_whether_or_not_there_is_a_bar(
    tmp_path: Path,
    checkpoint: Path,
    most: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tokens = encoded(tmp_path)
    monkeypatch.setattr("tqdm.tqdm", partial(tqdm, disable=True))  # as TQDM_DISABLE=1 does
    capsys.readouterr()
    assert run_decode(checkpoint, tokens, tmp_path / "out", f"max_images={most}") == 0
    count = 17 if most == "null" else int(most)
    assert capsys.readouterr().out.startswith(f"decoded  {count} images, pixel range signed")
    assert len(pictures(tmp_path / "out")) == count


def test_no_file_at_all_is_refused(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_decode(checkpoint, "[]", tmp_path / "out") == USER_ERROR
    assert "tokens is an empty list; give a folder or files." in capsys.readouterr().err


def test_files_of_one_name_are_refused(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = encoded(tmp_path)
    other = encoded(tmp_path / "other", "pixel_range=unit")
    both = f"[{tokens}/001.parquet,{other}/001.parquet]"
    assert run_decode(checkpoint, both, tmp_path / "out") == USER_ERROR
    assert "2 files are called 001" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_another_job_in_the_same_folder_is_refused(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = encoded(tmp_path)
    other = encoded(tmp_path / "other")
    output = tmp_path / "out"
    assert run_decode(checkpoint, tokens, output, "max_images=3") == 0
    before = contents(output)
    for arguments, message in (
        ((tokens, output, "max_images=4"), "max_images was 3, is 4"),
        ((other, output, "max_images=3"), "tokens was 3 files, "),
    ):
        assert run_decode(checkpoint, *arguments) == USER_ERROR
        assert message in capsys.readouterr().err
    assert contents(output) == before
    assert run_decode(checkpoint, tokens, output, "max_images=3") == 0
    parquet.write_table(parquet.read_table(tokens / "001.parquet"), tokens / "001.parquet")
    assert run_decode(checkpoint, tokens, output, "max_images=3") == USER_ERROR


@pytest.mark.parametrize("most", [None, 7])
def test_processes_share_the_pictures_and_count_their_own(
    tmp_path: Path,
    checkpoint: Path,
    most: int | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tokens = encoded(tmp_path)
    limit = () if most is None else (f"max_images={most}",)
    settings = ("batch_size=2", *limit)
    assert run_decode(checkpoint, tokens, tmp_path / "alone", *settings) == 0
    monkeypatch.setenv("WORLD_SIZE", "3")
    counts = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        capsys.readouterr()
        assert run_decode(checkpoint, tokens, tmp_path / "shared", *settings) == 0
        counts.append(int(capsys.readouterr().out.split()[1]))
    assert sum(counts) == (most or 17)
    assert max(counts) - min(counts) <= 4
    assert contents(tmp_path / "shared") == contents(tmp_path / "alone")


def test_a_key_with_a_folder_in_it_is_a_file_name(tmp_path: Path) -> None:
    from vqgan_train.tokens.decode import picture_name

    assert picture_name(3, "a/b/c") == "000003_a_b_c.png"
    assert picture_name(3, "") == "000003.png"
    assert picture_name(3, "a\0b") == "000003_a_b.png"
    assert picture_name(3, "ä" * 300) == f"000003_{'ä' * 100}.png"


def test_keys_of_integers_and_nulls_are_read(tmp_path: Path, checkpoint: Path) -> None:
    """As other programs write them."""
    file = bare(encoded(tmp_path), tmp_path / "bare")
    table = parquet.read_table(file).select(["encoding"])
    keys = pa.array([7, None, *range(table.num_rows - 2)], pa.int64())
    parquet.write_table(table.append_column("key", keys), file)
    assert run_decode(checkpoint, file, tmp_path / "pictures", "pixel_range=unit") == 0
    names = sorted(path.name for path in (tmp_path / "pictures" / "bare").iterdir())
    assert names[:2] == ["000000_7.png", "000001.png"]


def test_the_tokenizer_of_the_tests_uses_many_codes(tmp_path: Path, checkpoint: Path) -> None:
    assert len(np.unique(tokens_of(encoded(tmp_path)))) > 20
    assert tiny_vqgan().downsampling == 2
