"""`export`: the command, and a proof that JAX and torch give the same results."""

import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import FULL_ARCHITECTURE, random_lpips_weights, tiny_images
from omegaconf.errors import MissingMandatoryValue
from real_photos import real_photos
from tiny_exports import (
    ARCHITECTURES,
    PLAIN_RESAMPLING,
    WIDE_AT_ONCE,
    same_bits,
    tiny_networks,
    write_checkpoint,
)
from tiny_runs import compose_settings
from torch import Tensor

from vqgan_train import export as command
from vqgan_train.checkpoint.export_formats import FORMATS
from vqgan_train.checkpoint.reading import read_networks
from vqgan_train.cli import USER_ERROR, explain, user_can_fix
from vqgan_train.config.checks import plain_settings
from vqgan_train.config.export import ExportConfig, ExportFormat
from vqgan_train.models import VQGAN
from vqgan_train.release import conversion
from vqgan_train.release.card import CardMetadata
from vqgan_train.release.conversion import Agreement, Conversion, convert
from vqgan_train.release.release_folder import Release

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "export.md").read_text()
ALL_FORMATS = [*FORMATS, "onnx", "release"]
GIVEN = ("checkpoint=last.ckpt", "output=out", "format=flax")
LARGEST_DIFFERENCE = 1e-3
LEAST_EQUAL_TOKENS = 0.999


def compose_export(*overrides: str) -> ExportConfig:
    return compose_settings("export", ExportConfig, *overrides)


# The settings.


def test_the_formats_that_can_be_asked_for_are_those_that_there_are() -> None:
    assert [kind.value for kind in ExportFormat] == ALL_FORMATS
    for name in ALL_FORMATS:
        assert compose_export(*GIVEN[:2], f"format={name}").format.value == name


def test_all_settings_are_read_and_must_be_given() -> None:
    settings = plain_settings(compose_export(*GIVEN))
    card = settings.pop("card")
    assert card.pop("pictures") == "none", "no photo is published unless it is asked for"
    assert card == {**dict.fromkeys(card), "datasets": []}, "nothing is said unless it is given"
    assert card.keys() | {"repository"} == set(CardMetadata._fields), "card is passed on as it is"
    assert settings == {
        **dict(item.split("=") for item in GIVEN),
        "averaged": False,
        "push_to_hub": None,
        "private": True,
    }
    source = (ROOT / "vqgan_train" / "release" / "export.py").read_text()
    assert all(f"config.{name}" in source for name in (*settings, "card"))
    for missing in GIVEN:
        name = missing.split("=")[0]
        with pytest.raises(MissingMandatoryValue) as raised:
            compose_export(*(setting for setting in GIVEN if setting != missing))
        assert explain(raised.value, ExportConfig).startswith(f"{name} has no value yet.")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("checkpoint=", "checkpoint is empty; give the path of a file"),
        ("output=", "output is empty; give a folder"),
        ("format=jax", "expected one of [flax, safetensors, taming, diffusers, onnx, release]"),
        ("fromat=flax", "Did you mean format?"),
        ("card.licence=mit", "Did you mean card.license"),
        (
            "card.license=MIT",
            "card.license is 'MIT'; give an identifier of the Hugging Face Hub, such as mit",
        ),
        ("card.pictures=grid", "push_to_hub and card only apply to a release"),
        ("card.license=other", "card.license=other needs both a name and a link"),
        ("card.license_name=ours", "card.license=other needs both a name and a link"),
        (
            "card.hardware=GPU",
            "card only apply to a release, but format is flax. Set format=release",
        ),
        (
            "push_to_hub=user/repo",
            "push_to_hub and card only apply to a release, but format is flax",
        ),
        ("format=release averaged=true", "averaged=true does not apply to a release"),
        ("push_to_hub=repo", "push_to_hub is 'repo'; give USER/REPO"),
    ],
)
def test_a_mistake_is_refused_with_what_to_change(override: str, message: str) -> None:
    others = [given for given in GIVEN if given.split("=")[0] != override.split("=")[0]]
    with pytest.raises(Exception) as raised:  # noqa: PT011 - which class is Hydra's business
        compose_export(*others, *override.split())
    assert user_can_fix(raised.value)
    assert message in explain(raised.value, ExportConfig)


# The command.


@pytest.fixture
def small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "PROBE_SIDE", 32)


def run_export(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["vqgan_train.export", *arguments])
    try:
        command.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.mark.usefixtures("small_images")
def test_it_writes_and_says_what_it_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Names that Hydra's grammar does not take as they are.
    path = write_checkpoint(tmp_path / "epoch=3-step=100.ckpt", tiny_networks())
    output = tmp_path / "out {1}"
    arguments = (f"checkpoint={path}", f"output={output}", "format=flax")
    assert run_export(monkeypatch, *arguments) == 0
    files = {file.name: file.stat().st_size for file in output.iterdir()}
    assert capsys.readouterr().out == (
        f"wrote    {output}/config.json ({files['config.json']:,} bytes)\n"
        f"         {output}/flax_model.msgpack ({files['flax_model.msgpack']:,} bytes)\n"
        "weights  155 arrays, 740,659 numbers; read back, equal bit by bit\n"
        "codes    64\n"
        "tokens   1,024 of 1,024 equal on test images\n"
        "images   decoded images differ by at most 0\n"
        "left out the discriminator, which format=taming includes\n"
    )
    assert not [file for file in tmp_path.iterdir() if file not in (path, output)]


def test_an_error_is_shown_without_a_traceback_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_checkpoint(tmp_path / "last.ckpt", tiny_networks(**WIDE_AT_ONCE))
    arguments = (f"checkpoint={path}", f"output={tmp_path / 'out'}", "format=diffusers")
    assert run_export(monkeypatch, *arguments) == USER_ERROR
    shown = capsys.readouterr().err
    assert shown.startswith("\nError: diffusers' VQModel needs channel_multipliers")
    assert "Traceback" not in shown
    assert list(tmp_path.iterdir()) == [path]


def test_a_release_is_pushed_only_if_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uploads: list[tuple[str, bool, Path, tuple[str, ...]]] = []

    def upload(repository: str, folder: Path, files: tuple[str, ...], *, private: bool) -> str:
        uploads.append((repository, private, folder, files))
        return f"hub/{repository}"

    def write(
        checkpoint: Path, folder: Path, metadata: CardMetadata, *, has_pictures: bool
    ) -> Release:
        assert not has_pictures
        (folder / "training").mkdir(parents=True)
        (folder / "README.md").write_text(f"{metadata.repository} {metadata.license}")
        (folder / "training" / "metrics.csv").write_text("step\n")
        made = Conversion((), 3, 1234, 32, True, Agreement(64, 63, 0.5))
        return Release(folder, ("README.md", "training/metrics.csv"), {"flax": made}, 2, 1)

    monkeypatch.setattr("vqgan_train.release.export.require_login", lambda _: None)
    monkeypatch.setattr("vqgan_train.release.export.upload", upload)
    monkeypatch.setattr("vqgan_train.release.export.write_release", write)
    (tmp_path / "last.ckpt").touch()
    given = (f"checkpoint={tmp_path}/last.ckpt", "format=release", "card.license=mit")
    assert run_export(monkeypatch, *given, f"output={tmp_path / 'a'}") == 0
    assert uploads == []
    assert capsys.readouterr().out == (
        f"wrote    {tmp_path}/a/README.md (8 bytes)\n"
        f"         {tmp_path}/a/training/metrics.csv (5 bytes)\n"
        "\nflax\n"
        "weights  3 arrays, 1,234 numbers; read back, equal bit by bit\n"
        "codes    32\n"
        "tokens   63 of 64 equal on test images\n"
        "images   decoded images differ by at most 0.5\n"
        "\nparts    2, 1 of them with metrics\n"
        "hub      not uploaded\n"
    )
    pushed = (f"output={tmp_path / 'b'}", "push_to_hub=user/repo", "private=false")
    assert run_export(monkeypatch, *given, *pushed) == 0
    files = ("README.md", "training/metrics.csv")
    assert uploads == [("user/repo", False, tmp_path / "b", files)]
    assert "hub      uploaded to hub/user/repo\n" in capsys.readouterr().out
    assert (tmp_path / "b" / "README.md").read_text() == "user/repo mit"


def test_without_a_token_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vqgan_train.release.hub.get_token", lambda: None)
    path = write_checkpoint(tmp_path / "last.ckpt", tiny_networks())
    given = (f"checkpoint={path}", f"output={tmp_path / 'out'}", "format=release")
    assert run_export(monkeypatch, *given, "push_to_hub=user/repo") == USER_ERROR
    assert "Error: push_to_hub=user/repo needs a Hugging Face token" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path]


# JAX.


def in_jax(folder: Path, images: Tensor, tokens: Tensor, height: int) -> tuple[Tensor, Tensor]:
    """Tokens of images, and images of tokens, as a Flax model with the exported files has them."""
    for package in ("jax", "flax"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    given, made = folder.parent / "given.npz", folder.parent / "made.npz"
    np.savez(given, images=images.permute(0, 2, 3, 1), tokens=tokens, height=height)
    # In a process of its own: JAX's threads and the forks of other tests do not go together.
    script = Path(__file__).with_name("flax_vqgan.py")
    subprocess.run([sys.executable, *map(str, (script, folder, given, made))], check=True)
    with np.load(made) as arrays:
        return torch.from_numpy(arrays["tokens"]), torch.from_numpy(arrays["images"])


@torch.no_grad()
def assert_jax_gives_the_same(checkpoint: Path, folder: Path, images: Tensor) -> None:
    """Compare torch on the checkpoint with JAX on the export."""
    model = VQGAN.from_checkpoint(checkpoint)
    height = images.shape[2] // model.downsampling
    tokens = model.encode(images)
    assert len(tokens.unique()) >= min(50, tokens.numel() // 8), "too few to tell models apart"
    decoded = model.decode(tokens, (height, images.shape[3] // model.downsampling))
    their_tokens, their_images = in_jax(folder, images, tokens, height)
    assert (tokens == their_tokens).float().mean() >= LEAST_EQUAL_TOKENS
    difference = (decoded.permute(0, 2, 3, 1) - their_images).abs().max()
    assert difference < LARGEST_DIFFERENCE


def in_both_ranges(images: Tensor) -> Tensor:
    """Images in the range of training, and as DALL-E mini gave them to the model: in [0, 1]."""
    return torch.cat([images, (images + 1) / 2])


def assert_export_is_the_same(folder: Path, overrides: dict[str, Any], images: Tensor) -> None:
    path = write_checkpoint(folder / "last.ckpt", tiny_networks(**overrides))
    convert(path, FORMATS["flax"], folder / "flax")
    assert_jax_gives_the_same(path, folder / "flax", in_both_ranges(images))


@pytest.mark.usefixtures("small_images")
def test_jax_gives_the_same_on_photos(tmp_path: Path) -> None:
    assert_export_is_the_same(tmp_path, {}, real_photos(4, side=32))


IN_JAX = {**ARCHITECTURES, "plain resampling": PLAIN_RESAMPLING, "wide at once": WIDE_AT_ONCE}


@pytest.mark.slow
@pytest.mark.parametrize("overrides", IN_JAX.values(), ids=IN_JAX.keys())
@pytest.mark.usefixtures("small_images")
def test_jax_gives_the_same_for_every_architecture(
    tmp_path: Path, overrides: dict[str, Any]
) -> None:
    channels = overrides.get("in_channels", 3)
    images = tiny_images(1, 64, 32, channels=channels)
    assert_export_is_the_same(tmp_path, overrides, images)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of f16-16384 and its export to Flax, in the folder `flax` beside it."""
    folder = tmp_path_factory.mktemp("full")
    networks = tiny_networks(**FULL_ARCHITECTURE)
    path = write_checkpoint(folder / "last.ckpt", networks)
    made = convert(path, FORMATS["flax"], folder / "flax")
    assert made.codebook_size == 16_384, "the model card says 13,384"
    assert (made.num_weights, made.num_parameters) == (343, 76_073_859)
    return path


@pytest.mark.slow
def test_the_full_export_has_the_size_of_the_published_file(full: Path) -> None:
    sizes = {file.name: file.stat().st_size for file in (full.parent / "flax").iterdir()}
    assert sizes == {"flax_model.msgpack": 304_306_804, "config.json": 434}
    back = read_networks(full.parent / "flax" / "flax_model.msgpack")
    assert same_bits(back.generator, read_networks(full).generator)


@pytest.mark.slow
def test_jax_gives_the_same_on_photos_at_full_size(full: Path) -> None:
    assert_jax_gives_the_same(full, full.parent / "flax", in_both_ranges(real_photos(1)))


# The page. What it says of a release is in tests/test_release.py.

COMMANDS = re.findall(r"^    python -m vqgan_train\.export (.*)$", PAGE, re.MULTILINE)
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_has_a_command_and_a_snippet_for_every_format() -> None:
    formats = [re.findall(r"format=(\w+)", command)[0] for command in COMMANDS]
    assert list(dict.fromkeys(formats)) == ALL_FORMATS
    for name in (*FORMATS, "onnx"):
        assert any(f"export/{name}/" in code or f'export/{name}"' in code for code in SNIPPETS)


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the page's commands were run to the letter."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(conversion, "PROBE_SIDE", 32)
        for line in (line for line in COMMANDS if not re.search("format=(release|onnx)", line)):
            path = Path(re.findall(r"checkpoint=(\S+)", line)[0])
            if not path.exists():
                path.parent.mkdir(parents=True)
                write_checkpoint(path, tiny_networks())
            assert run_export(patch, *line.split()) == 0
    return folder


@pytest.mark.parametrize(
    "snippet",
    [
        pytest.param(code, marks=[pytest.mark.slow] if "onnx" in code else [], id=code.split()[1])
        for code in SNIPPETS
    ],
)
@torch.no_grad()
def test_the_snippets_of_the_page_run(
    exports: Path, snippet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = re.findall(r"^from (\w+)", snippet, re.MULTILINE)[-1]
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    monkeypatch.chdir(exports)
    if library == "onnxruntime":  # its export takes longer than all others together
        monkeypatch.setattr(conversion, "PROBE_SIDE", 32)
        (line,) = (line for line in COMMANDS if "format=onnx" in line)
        assert run_export(monkeypatch, *line.split()) == 0
    model = VQGAN.from_checkpoint("runs/part1/checkpoints/best.ckpt")
    images = tiny_images()
    expected = model(images)
    if library == "taming":
        build_tamings_loss(monkeypatch)
    names: dict[str, Any] = {"images": images}
    exec(snippet, names)
    if "codes" in names:
        assert torch.equal(in_torch(names["codes"]), model.quantizer.codebook.weight)
    if "architecture" in names:
        assert VQGAN(**names["architecture"]).downsampling == model.downsampling
    if "tokens" in names:
        tokens = in_torch(names["tokens"]).view(len(images), -1)
        assert torch.equal(tokens, expected.tokens)
    for name in {"decoded", "again"} & names.keys():
        decoded = in_torch(names[name])
        decoded = decoded if decoded.shape[1] == 3 else decoded.permute(0, 3, 1, 2)
        assert (decoded - expected.reconstruction).abs().max() < LARGEST_DIFFERENCE


def in_torch(values: Any) -> Tensor:
    """A tensor of what a snippet made, an array of JAX for one."""
    return values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))


def build_tamings_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let taming build the loss of its config, but with LPIPS' weights drawn, not downloaded."""
    reference = importlib.import_module("reference")
    monkeypatch.setattr(
        "taming.models.vqgan.instantiate_from_config",
        lambda config: reference.peer_loss(random_lpips_weights(), **config["params"]),
    )
