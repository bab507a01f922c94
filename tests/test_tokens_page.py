"""docs/tokens.md: its commands and its snippets run."""

import re
import shlex
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from factories import image_bytes, tiny_images
from pyarrow import parquet
from tiny_tokens import SMALL, metadata_of, run, tiny_checkpoint, tiny_shards

from vqgan_train import VQGAN, decode, encode

PAGE = (Path(__file__).parents[1] / "docs" / "tokens.md").read_text()
COMMANDS = re.findall(r"^    python -m vqgan_train\.(encode|decode) (.*)$", PAGE, re.MULTILINE)
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
CHECKPOINT = Path("runs/part1/checkpoints/best.ckpt")
GRID = 64


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the page's commands were run, on small images."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        CHECKPOINT.parent.mkdir(parents=True)
        tiny_checkpoint(folder).rename(CHECKPOINT)
        tiny_shards(Path("shards"))
        photo = Path("photos/a.png")
        photo.parent.mkdir()
        photo.write_bytes(image_bytes(40, 30))
        Path("photo.jpg").write_bytes(image_bytes(300, 260))
        table = pa.table({"path": ["photos/a.png"], "caption": ["a photo"]})
        parquet.write_table(table, "list.parquet")
        bare = pa.table({"caption": ["a", "b"], "encoding": [[5] * GRID, [7] * GRID]})
        Path("dalle_mini").mkdir()
        parquet.write_table(bare, "dalle_mini/001.parquet")
        for name, line in COMMANDS:
            words = shlex.split(line.replace("[256,384]", "[16,24]"))
            given = {word.split("=")[0] for word in words}
            given |= {"resize"} if "image_size" in given else set()
            small = [word for word in SMALL if word.split("=")[0] not in given]
            if name == "encode":
                assert run(encode, *words, *small) == 0
            else:
                assert run(decode, *words, "accelerator=cpu") == 0
    return folder


def test_there_is_a_command_of_each_kind(made: Path) -> None:
    lines = [line for _, line in COMMANDS]
    for word in ("shards=", "folder=", "tables=", "tokens=", "pixel_range=unit", "format=npy"):
        assert any(word in line for line in lines)
    assert len(list((made / "pictures").glob("*/*.png"))) == 17
    assert len(list((made / "dalle_mini_pictures/001").iterdir())) == 2
    wide = metadata_of(made / "tokens/wide/001.parquet")
    assert (wide.grid, wide.interpolation) == ([8, 12], "lanczos")


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_the_snippets_run(made: Path, snippet: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    model = VQGAN.from_checkpoint(CHECKPOINT)
    images = tiny_images(2, 16, 16)
    names: dict[str, Any] = {"images": images}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # WebDataset leaves the file open
        exec(snippet.replace("image_size=256", "image_size=16"), names)
    if "encoding" in names:
        assert np.array(names["encoding"]).shape[1] == GRID
        assert np.array(names["encoding"]).max() < 64
    else:
        tokens = model.encode(names["images"])
        assert (names["tokens"] == tokens).float().mean() > 0.95
    if "picture" in names:
        assert names["picture"].size == (16, 16)
        assert names["picture"].tobytes() == names["the_same"].tobytes()
    if "decoded" in names:
        assert names["decoded"].shape == names["images"].shape
        assert names["decoded"].dtype in (torch.float32, torch.bfloat16)


def test_the_table_of_files_is_what_is_written(made: Path) -> None:
    assert {file.name for file in (made / "tokens/folder").iterdir()} == {
        "001.npy", "001.json", ".vqgan_train",
    }  # fmt: skip
    assert (made / "tokens/signed/003.parquet").exists()
    assert (made / "tokens/unit/003.tar").exists()
