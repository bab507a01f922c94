"""Releases: the card has the run's numbers, and its instructions work."""

import filecmp
import importlib
import json
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from factories import FULL_ARCHITECTURE
from huggingface_hub import ModelCard, ModelCardData
from PIL import Image
from tiny_exports import tiny_networks, write_checkpoint
from tiny_releases import NO_METADATA, RUN_URLS, change, copy_of, make_parts
from tiny_runs import load, rows, tiny_config
from wandb_server import WandbServer

from vqgan_train.checkpoint.reading import read_networks
from vqgan_train.models import VQGAN
from vqgan_train.release import conversion
from vqgan_train.release.card import CardMetadata, ReleasedModel, markdown_safe, model_card
from vqgan_train.release.lineage import read_lineage
from vqgan_train.release.release_folder import write_release
from vqgan_train.release.run_records import find_records
from vqgan_train.system.errors import CheckpointError, ExportError, UserError
from vqgan_train.training.train import train

ALL_METADATA = CardMetadata(
    repository="tester/cards",
    license="other",
    license_name="our-license",
    license_link="https://license.test/ours",
    datasets=("tester/photos", "photos of ours"),
    hardware="2 cores",
)


@pytest.fixture(autouse=True, scope="module")
def small_images() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversion, "PROBE_SIDE", 32)
        yield


@pytest.fixture(scope="module")
def last(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of Part 2."""
    return make_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def released(last: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of its release, without any metadata from the user."""
    folder = tmp_path_factory.mktemp("released") / "release"
    write_release(last, folder, NO_METADATA, has_pictures=True)
    return folder


@pytest.fixture(scope="module")
def card(released: Path) -> str:
    return (released / "README.md").read_text()


def release_of(checkpoint: Path, folder: Path, metadata: CardMetadata = NO_METADATA) -> str:
    """The card of a release made in `folder`."""
    write_release(checkpoint, folder, metadata, has_pictures=True)
    return (folder / "README.md").read_text()


def flowing(text: str) -> str:
    """Text as a reader of markdown sees it: lines of a paragraph are one."""
    return re.sub(r"\s+", " ", text)


def table(card: str, heading: str) -> dict[str, list[str]]:
    """Rows of the table below a line, by their first cell."""
    lines = card.split(heading, 1)[1].strip().split("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {first: rest for first, *rest in cells}


def four_digits(value: str) -> str:
    return f"{int(float(value)):,}" if float(value).is_integer() else f"{float(value):.4g}"


def test_text_of_a_checkpoint_stays_in_its_line() -> None:
    assert markdown_safe("a\n# b") == "a # b"
    assert markdown_safe("`a` [b](c) <d> | e") == "a b(c) d e"


# What the card says.


def test_it_counts_codes_tokens_and_parameters_in_the_weights(card: str, last: Path) -> None:
    networks = read_networks(last)
    assert len(networks.generator["quantizer.codebook.weight"]) == 32
    assert "# VQGAN-f2-32\n" in card
    assert "`f=2`, **codebook** of `32` tokens (counted in the weights), each a vector of 4" in card
    model = VQGAN.from_checkpoint(last)
    assert model.encode(torch.zeros(1, 3, 32, 32)).numel() == 16_384 // (256 // 32) ** 2
    assert "`16,384` tokens (`256/2 * 256/2`), one of `512x512` to `65,536`" in card
    counts = [
        sum(weight.numel() for weight in part.parameters())
        for part in (model, model.encoder, model.decoder, model.quantizer)
    ]
    projections = counts[0] - sum(counts[1:])
    numbers = "{:,} (encoder {:,}, decoder {:,}, codebook {:,}, projections {:,})"
    assert numbers.format(*counts, projections) in card
    judge = sum(
        weight.numel()
        for name, weight in networks.discriminator.items()
        if name.endswith(("weight", "bias"))
    )
    assert f"discriminator ({judge:,} parameters)" in card


def test_the_full_model_has_16384_codes_whatever_other_cards_say(last: Path) -> None:
    lineage = read_lineage(last)
    records = tuple(find_records(run) for run in lineage.runs)
    full = tiny_networks(**FULL_ARCHITECTURE)
    origin = {"source": "last.ckpt", "source_sha256": "0" * 64}
    card = model_card(ReleasedModel(lineage, records, full, origin, None), NO_METADATA)
    assert "# VQGAN-f16-16384\n" in card
    assert "`f=16`, **codebook** of `16,384` tokens (counted in the weights)" in card
    assert "to `256` tokens (`256/16 * 256/16`), one of `512x512` to `1,024`" in card
    counts = "76,073,859 (encoder 29,298,176, decoder 42,449,795, codebook 4,194,304,"
    assert f"**Parameters**: {counts}" in card


def test_a_model_without_discriminator_and_wandb_run_is_described_without_them(last: Path) -> None:
    lineage = read_lineage(last)
    (run, _), (records, _) = lineage.runs, [find_records(run) for run in lineage.runs]
    lineage = lineage._replace(runs=(run._replace(wandb={}),))
    networks = read_networks(last)._replace(discriminator={})
    origin = {"source": "last.ckpt", "source_sha256": "0" * 64}
    card = model_card(ReleasedModel(lineage, (records,), networks, origin, None), NO_METADATA)
    assert "| [taming-transformers](https://github.com/CompVis/taming-transformers) |\n" in card
    assert "* **Part 1**, not logged at W&B.\n" in card


def test_it_says_which_images_were_seen_and_how_often(card: str, last: Path) -> None:
    content = load(last)
    assert content["ShardDataModule"]["position"] == 12
    assert content["vqgan_train"]["data"]["train_images"] == 9
    folder = last.parents[2].name
    assert f"* Shards: `{folder}/train.tar`, with 9 images." in card
    assert "* Seen in training: **12 images**.\n  That is 1.333 passes over the 9.\n" in card
    assert f"* Validation: 5 images, from `{folder}/val.tar`." in card
    assert "* Unreadable samples in training and validation: 0." in card
    assert "* Training started from random weights." in card


def test_part_1_alone_saw_each_image_once_at_most(last: Path, tmp_path: Path) -> None:
    part1 = last.parents[2] / "part1" / "checkpoints" / "last.ckpt"
    card = release_of(part1, tmp_path / "out")
    assert "**4 images**.\n  Each of the 9 was seen at most once.\n" in card
    assert "Part 2" not in card
    assert "Each part continued" not in card


def test_it_tells_both_parts_with_their_runs(card: str, last: Path) -> None:
    provenance = load(last)["vqgan_train"]
    parts = flowing(card.split("## Training Process")[1].split("## Evaluation")[0])
    first, second = parts.split("* **Part ")[1:]
    assert first.startswith(f"1**, logged as [this run]({RUN_URLS[0]}). ")
    assert second.startswith(f"2**, logged as [this run]({RUN_URLS[1]}). ")
    assert "Steps 1 to 2: 4 images, 2 per step." in first
    assert "Steps 3 to 6: 8 images, 2 per step." in second
    assert "learning rate 0.001 (`optim.learning_rate=0.001`, scaled by `none`). *" in first
    assert "learning rate 0.0005 (`optim.learning_rate=0.0005`" in second
    assert {row["train/learning_rate"] for row in rows(last.parents[1])} == {"0.0005"}
    for part in (first, second):
        assert "Loss: L1 + 1 x LPIPS (VGG16) + 1 x codebook loss + 0.75 x adaptive" in part
        assert "resized to 20 pixels, then a square of 16 cropped at a random place. Half" in part
        assert provenance["git_revision"].removesuffix("-dirty") in part
        assert f"torch {provenance['packages']['torch']}, " in part
        assert "`trainer.accelerator=cpu`, `devices=1`, `num_nodes=1`" in part
    assert "The model was saved at step 6." in card


@pytest.mark.slow
def test_a_run_at_wandb_is_linked(wandb_server: WandbServer, tmp_path: Path) -> None:
    online = ("logger=wandb", "logger.wandb.entity=tester", "logger.wandb.project=cards")
    train(tiny_config(tmp_path, *online, "run.max_steps=2"))
    card = release_of(tmp_path / "run" / "checkpoints" / "best.ckpt", tmp_path / "out")
    run_id = (tmp_path / "run" / "wandb_id").read_text()
    (link,) = re.findall(r"logged as \[this run\]\((.*?)\)\.", card)
    assert re.fullmatch(rf"https?://\S+/tester/cards/runs/{run_id}", link)


@pytest.mark.slow
def test_a_run_that_wandb_never_saw_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    train(tiny_config(tmp_path, "logger=wandb", "logger.wandb.mode=offline", "run.max_steps=2"))
    card = release_of(tmp_path / "run" / "checkpoints" / "best.ckpt", tmp_path / "out")
    run_id = (tmp_path / "run" / "wandb_id").read_text()
    assert re.search(rf"logged offline as the W&B run `[\w/]*{run_id}`\.", card)


VALIDATION = {
    "L1 + LPIPS": "val/loss/reconstruction",
    "LPIPS (VGG16)": "val/loss/perceptual",
    "L1": "val/loss/pixel",
    "codebook loss": "val/loss/codebook",
    "PSNR (dB)": "val/psnr",
    "SSIM": "val/ssim",
    "codes used": "val/codebook/used",
    "perplexity of the codes": "val/codebook/perplexity",
}
TRAINING = {
    "L1 + LPIPS": "train/loss/reconstruction",
    "LPIPS (VGG16)": "train/loss/perceptual",
    "L1": "train/loss/pixel",
    "codebook loss": "train/loss/codebook",
    "adversarial loss": "train/loss/adversarial",
    "adaptive weight": "train/adversarial/weight",
    "discriminator loss": "train/loss/discriminator",
}


def test_validation_before_between_and_after_is_that_of_metrics_csv(card: str, last: Path) -> None:
    first, second = rows(last.parents[2] / "part1"), rows(last.parents[1])
    milestones = [first[0], first[-1], second[-1]]
    shown = table(card, "On the 5 validation images of 16 x 16 pixels:")
    assert shown.pop("") == ["before training", "after Part 1", "this model"]
    assert set(shown.pop("---")) == {"---:"}
    assert shown.pop("step") == ["0", "2", "6"] == [row["step"] for row in milestones]
    expected = {n: [four_digits(row[m]) for row in milestones] for n, m in VALIDATION.items()}
    assert shown == expected


def test_losses_are_the_first_and_last_that_were_logged(card: str, last: Path) -> None:
    milestones = [rows(last.parents[2] / "part1")[1], rows(last.parents[1])[-1]]
    shown = table(card, "Training losses, averaged over the images of a step:")
    assert shown.pop("step") == ["1", "6"]
    expected = {n: [four_digits(row[m]) for row in milestones] for n, m in TRAINING.items()}
    assert {name: shown[name] for name in expected} == expected


def test_the_time_is_that_of_the_steps(last: Path, card: str) -> None:
    seconds = 0.0
    for part in ("part1", "part2"):
        with (last.parents[2] / part / "metrics.csv").open() as file:
            lines = [line.rstrip("\n").split(",") for line in file]
        column = lines[0].index("train/step_seconds")
        seconds += sum(float(line[column]) for line in lines[1:] if line[column])
    assert f"All steps took {seconds:.1f} seconds according to the metrics" in card


def test_what_was_not_said_is_said_to_be_unknown(card: str) -> None:
    assert "* The names of the datasets were not given." in card
    assert "The hardware was not given." in card
    assert "No license was chosen for these weights." in card
    text = re.sub(r"```python\n.*?```", "code", card, flags=re.DOTALL)
    for gap in ("None", "null", "TODO", "{{", "{%", "\n\n\n"):
        assert gap not in text


def test_what_was_said_is_in_it(last: Path, tmp_path: Path) -> None:
    card = release_of(last, tmp_path / "out", ALL_METADATA)
    for line in (
        "* [tester/photos](https://huggingface.co/datasets/tester/photos)",
        "* photos of ours",
        "Hardware: 2 cores.",
        "[our-license](https://license.test/ours)",
        "    hf download tester/cards --local-dir cards",
    ):
        assert f"\n{line}\n" in card
    assert "not given" not in card
    assert "No license" not in card


def test_a_license_of_the_hub_needs_no_link(last: Path, tmp_path: Path) -> None:
    card = release_of(last, tmp_path / "out", NO_METADATA._replace(license="mit"))
    assert "## License\n\n`mit`\n" in card
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "mit"


def test_photos_are_published_only_if_asked_for(last: Path, tmp_path: Path) -> None:
    write_release(last, tmp_path / "out", NO_METADATA, has_pictures=False)
    assert not list((tmp_path / "out").rglob("*.png"))
    assert "pictures.png" not in (tmp_path / "out" / "README.md").read_text()


def test_it_does_not_say_where_things_lay(
    card: str, released: Path, last: Path, tmp_path: Path
) -> None:
    assert str(last.parents[2]) not in card
    for part in ("part1", "part2"):
        config = (released / "training" / part / "config.yaml").read_text()
        assert str(last.parents[2]) not in config
        assert not re.search(r"(?m)[ '\"](/|~/)", config)
    own = copy_of(last.parents[2], tmp_path / "own")

    def start(source: str) -> str:
        def edit(content: dict[str, Any]) -> None:
            content["vqgan_train"]["parent"]["provenance"]["config"]["model"]["init_from"] = source

        change(own, edit)
        return release_of(own, tmp_path / re.sub(r"\W", "", source))

    assert "training started from: `last.ckpt`." in start("/home/me/secret/last.ckpt")
    web = start("https://me:password@weights.test/f16/last.ckpt?token=1#sha256=00")
    assert "training started from: `https://weights.test/f16/last.ckpt`." in web
    hub = start("hf://boris/vqgan_f16_16384@v1/model.ckpt")
    assert "training started from: `hf://boris/vqgan_f16_16384@v1/model.ckpt`." in hub
    assert "\nbase_model: boris/vqgan_f16_16384\n" in hub


def test_what_a_part_did_not_train_or_trained_otherwise_is_said(last: Path, tmp_path: Path) -> None:
    own = copy_of(last.parents[2], tmp_path / "own")

    def edit(content: dict[str, Any]) -> None:
        config = content["vqgan_train"]["config"]
        config["model"]["trained"] = "decoder"
        config["optim"]["discriminator_betas"] = [0.9, 0.99]
        before = content["vqgan_train"]["parent"]["provenance"]["config"]
        del before["model"]["trained"], before["optim"]["discriminator_betas"]  # an earlier version

    change(own, edit)
    part1, part2 = release_of(own, tmp_path / "out").split("**Part 2**")
    assert "* Trained: decoder and discriminator. Encoder and codebook are, bit for bit" in part2
    assert "for the discriminator betas 0.9 and 0.99 and base learning rate 0.0005, scaled" in part2
    assert "Trained:" not in part1
    assert "for the discriminator" not in part1.partition("**Part 1**")[2]


def test_no_file_of_it_holds_a_secret(last: Path, tmp_path: Path) -> None:
    own = copy_of(last.parents[2], tmp_path / "own")

    def edit(content: dict[str, Any]) -> None:
        config = content["vqgan_train"]["parent"]["provenance"]["config"]
        config["model"]["init_from"] = "https://me:SECRET@weights.test/last.ckpt?token=SECRET"
        for each in (config, content["vqgan_train"]["config"]):
            each["data"]["train_shards"] = [
                "https://me:SECRET@photos.test/{00..99}.tar?signature=SECRET",
                "pipe:curl -H SECRET https://photos.test/{00..99}.tar",
            ]

    change(own, edit)
    card = release_of(own, tmp_path / "out")
    assert "`photos.test/{00..99}.tar`" in card
    holding = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert len(holding) > 5
    assert not [file.name for file in holding if b"SECRET" in file.read_bytes()]


def test_text_of_a_checkpoint_cannot_leave_its_place(last: Path, tmp_path: Path) -> None:
    own = copy_of(last.parents[2], tmp_path / "own")

    def edit(content: dict[str, Any]) -> None:
        made_by = content["vqgan_train"]
        made_by["wandb"]["url"] = "javascript:alert(1)"
        made_by["wandb"]["id"] = "a`\n\n# A heading <script>"
        made_by["git_revision"] = "[x](http://evil.test)\n---\nlicense: mit"
        made_by["config"]["data"]["resize"] = "256\n```python\n<script>"
        made_by["config"]["optim"]["learning_rate_scaling"] = "`<img src=x>\n# Another"

    change(own, edit)
    card = release_of(own, tmp_path / "out")
    assert "`tester/cards/a # A heading script`" in card
    assert "\n# A heading" not in card
    assert "](http://evil" not in card
    assert "javascript" not in card
    assert "<" not in card
    assert card.count("```python") == 4
    assert "\n# Another" not in card


# Front matter.


def test_the_hub_reads_the_front_matter(last: Path, tmp_path: Path, released: Path) -> None:
    write_release(last, tmp_path / "out", ALL_METADATA, has_pictures=True)
    known = set(vars(ModelCardData()))
    for folder in (released, tmp_path / "out"):
        loaded = ModelCard.load(folder / "README.md").data
        matter = loaded.to_dict()
        assert set(matter) <= known
        assert yaml.safe_load((folder / "README.md").read_text().split("---\n")[1]) == matter
    assert matter["license_name"] == "our-license"
    assert matter["datasets"] == ["tester/photos"]


# Files.


def test_it_holds_weights_settings_metrics_and_pictures(released: Path, last: Path) -> None:
    files = {str(f.relative_to(released)) for f in released.rglob("*") if f.is_file()}
    parts = {f"training/part{n}/{f}" for n in (1, 2) for f in ("config.yaml", "metrics.csv")}
    weights = {"model.safetensors", "flax_model.msgpack", "model.ckpt"}
    assert files == {"README.md", "config.json", "config.yaml", "pictures.png", *weights, *parts}
    model = yaml.safe_load((released / "config.yaml").read_text())["model"]
    assert model["base_learning_rate"] == 5e-4 / 2  # Part 2's, an image of its steps
    for number in (1, 2):
        run, part = last.parents[2] / f"part{number}", released / "training" / f"part{number}"
        assert filecmp.cmp(run / "metrics.csv", part / "metrics.csv", shallow=False)
        own, public = (yaml.safe_load((f / "config.yaml").read_text()) for f in (run, part))
        assert public["run"].pop("output_dir") == f".../part{number}"
        assert own["run"].pop("output_dir") == str(run)
        assert public["optim"] == own["optim"]
    newest = last.parents[1] / "images" / "step_000006.png"
    assert filecmp.cmp(newest, released / "pictures.png", shallow=False)
    expected = read_networks(last)
    for name in weights:
        found = read_networks(released / name)
        assert found.generator.keys() == expected.generator.keys()
        assert all(torch.equal(w, found.generator[n]) for n, w in expected.generator.items())
    assert json.loads((released / "config.json").read_text())["n_embed"] == 32


def test_the_same_release_has_the_same_bytes(released: Path, last: Path, tmp_path: Path) -> None:
    write_release(last, tmp_path / "out", NO_METADATA, has_pictures=True)
    for file in (f for f in released.rglob("*") if f.is_file()):
        assert filecmp.cmp(file, tmp_path / "out" / file.relative_to(released), shallow=False)
    write_release(last, tmp_path / "out", NO_METADATA, has_pictures=True)
    with pytest.raises(
        ExportError, match=r"holds different files named README.md\. Nothing was written"
    ):
        write_release(last, tmp_path / "out", ALL_METADATA, has_pictures=True)


def test_later_steps_are_of_another_model(last: Path, tmp_path: Path) -> None:
    own = copy_of(last.parents[2], tmp_path / "own")

    def go_back(content: dict[str, Any]) -> None:
        content["global_step"] = 4
        content["ShardDataModule"]["position"] = 8

    change(own, go_back)
    card = release_of(own, tmp_path / "out")
    (row,) = [row for row in rows(own.parents[1]) if row["step"] == "4"]
    shown = table(card, "On the 5 validation images of 16 x 16 pixels:")
    assert shown["step"] == ["0", "2", "4"]
    assert shown["L1"][-1] == four_digits(row["val/loss/pixel"])
    assert table(card, "Training losses, averaged over the images of a step:")["step"] == ["1", "4"]
    drawn = own.parents[1] / "images" / "step_000004.png"
    assert filecmp.cmp(drawn, tmp_path / "out" / "pictures.png", shallow=False)
    assert "differences between them, at step 4." in card


def test_without_part_1_the_checkpoint_remembers_how_it_began(last: Path, tmp_path: Path) -> None:
    own = copy_of(last.parents[2], tmp_path / "own")
    first = rows(tmp_path / "own" / "part1")[0]
    shutil.rmtree(tmp_path / "own" / "part1")
    card = release_of(own, tmp_path / "out")
    shown = table(card, "On the 5 validation images of 16 x 16 pixels:")
    assert shown[""] == ["before training", "this model"]
    assert shown["step"] == ["0", "6"]
    assert shown["LPIPS (VGG16)"][0] == four_digits(first["val/loss/perceptual"])
    assert shown["codebook loss"][0] == "unknown"
    assert "Its metrics were unavailable." in card
    assert "All steps took" not in card
    assert "`optim.learning_rate=0.001` scaled by `none`." in card
    assert not (tmp_path / "out" / "training" / "part1" / "metrics.csv").exists()


def test_without_its_run_a_checkpoint_says_what_it_knows(last: Path, tmp_path: Path) -> None:
    alone = shutil.copy(last, tmp_path / "alone.ckpt")
    card = release_of(alone, tmp_path / "out")
    assert "so this card does not say how good the model is." in card
    assert "Half of them were mirrored." in card
    assert "pictures.png" not in card
    assert flowing(card).count("learning rate 0.0005 (") == 1
    assert not (tmp_path / "out" / "pictures.png").exists()


def test_the_folder_of_another_run_is_passed_over_by_name(
    last: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("vqgan_train"), "propagate", True)
    own = copy_of(last.parents[2], tmp_path / "own")
    file = tmp_path / "own" / "part1" / "config.yaml"
    file.write_text(file.read_text().replace("learning_rate: 0.001", "learning_rate: 0.002"))
    card = release_of(own, tmp_path / "out")
    assert "Left out metrics and pictures of Part 1" in caplog.text
    assert "optim.learning_rate: 0.002 there, 0.001 now" in caplog.text
    assert "after Part 1" not in card


def test_validations_of_other_images_are_not_compared(last: Path, tmp_path: Path) -> None:
    own = copy_of(last.parents[2], tmp_path / "own")

    def edit(content: dict[str, Any]) -> None:
        content["vqgan_train"]["parent"]["provenance"]["data"]["val_fingerprint"] = "0" * 64

    change(own, edit)
    card = release_of(own, tmp_path / "out")
    assert table(card, "On the 5 validation images of 16 x 16 pixels:")[""] == ["this model"]
    assert "An earlier part was validated on other images" in card


# What is refused.


def test_weights_alone_are_refused(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "last.ckpt", tiny_networks())
    with pytest.raises(UserError, match=r"no record of a vqgan_train run, .* format=safetensors"):
        write_release(path, tmp_path / "out", NO_METADATA, has_pictures=True)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        write_release(tmp_path / "none.ckpt", tmp_path / "out", NO_METADATA, has_pictures=True)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("hole", [("data",), ("config", "optim", "betas"), ("packages", "torch")])
def test_a_run_with_holes_is_refused(last: Path, tmp_path: Path, hole: tuple[str, ...]) -> None:
    path = Path(shutil.copy(last, tmp_path / "last.ckpt"))

    def edit(content: dict[str, Any]) -> None:
        place = content["vqgan_train"]
        for name in hole[:-1]:
            place = place[name]
        del place[hole[-1]]

    change(path, edit)
    with pytest.raises(UserError, match=rf"lacks metadata .*'{hole[-1]}'"):
        write_release(path, tmp_path / "out", NO_METADATA, has_pictures=True)
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_that_continued_itself_is_refused(last: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(last, tmp_path / "last.ckpt"))

    def edit(content: dict[str, Any]) -> None:
        parent = content["vqgan_train"]["parent"]
        parent["provenance"]["parent"] = parent

    change(path, edit)
    with pytest.raises(UserError, match="more than 100 consecutive runs"):
        write_release(path, tmp_path / "out", NO_METADATA, has_pictures=True)


# What it says to do.

SNIPPETS = ("vqgan_train", "taming", "vqgan_jax")


def snippets(card: str) -> tuple[str, dict[str, str]]:
    """The one that reads a photo, and those for each package."""
    photo, *others = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(others) == len(SNIPPETS)
    return photo, dict(zip(SNIPPETS, others, strict=True))


@pytest.fixture
def beside_a_photo(released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(released, tmp_path, dirs_exist_ok=True)
    Image.radial_gradient("L").convert("RGB").save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("package", ["vqgan_train", "taming"])
def test_a_snippet_gives_what_the_checkpoint_gives(
    beside_a_photo: Path,
    card: str,
    last: Path,
    package: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if package == "taming":
        pytest.importorskip("taming")
        importlib.import_module("reference")  # lets taming be imported at all
        monkeypatch.setattr("taming.models.vqgan.instantiate_from_config", as_taming_does)
    photo, others = snippets(card)
    names: dict[str, Any] = {}
    exec(photo, names)
    exec(others[package], names)
    with torch.no_grad():
        expected = VQGAN.from_checkpoint(last)(names["images"])
    assert torch.equal(names["tokens"].view(1, -1), expected.tokens)
    assert (names["decoded"] - expected.reconstruction).abs().max() < 1e-3


def as_taming_does(config: dict[str, Any]) -> Any:
    """What `taming.main` defines, which itself needs a Lightning that is long gone."""
    module, _, name = config["target"].rpartition(".")
    return getattr(importlib.import_module(module), name)(**config.get("params", {}))


JAX_STAND_IN = """
import json, sys, types
from pathlib import Path
import numpy as np
from flax import serialization
from flax_vqgan import FlaxVQGAN

class VQModel:
    @classmethod
    def from_pretrained(cls, folder):
        model = cls()
        model.flax = FlaxVQGAN(json.loads((Path(folder) / "config.json").read_text()))
        raw = (Path(folder) / "flax_model.msgpack").read_bytes()
        model.params = {"params": serialization.msgpack_restore(raw)}
        return model

    def encode(self, images):
        return None, self.flax.apply(self.params, images, method="encode")

    def decode_code(self, tokens):
        height = int(tokens.shape[1] ** 0.5)
        return self.flax.apply(self.params, tokens, height, method="decode")

for name in ("vqgan_jax", "vqgan_jax.modeling_flax_vqgan"):
    sys.modules[name] = types.ModuleType(name)
sys.modules[name].VQModel = VQModel
"""


@pytest.mark.slow
def test_the_snippet_for_flax_gives_the_same(beside_a_photo: Path, card: str, last: Path) -> None:
    for package in ("jax", "flax"):
        pytest.importorskip(package)
    photo, others = snippets(card)
    save = "np.savez('made.npz', images=images, tokens=tokens, decoded=decoded)"
    # In a process of its own: JAX's threads and the forks of other tests do not go together.
    code = "\n".join([JAX_STAND_IN, photo, others["vqgan_jax"], save])
    path = [str(Path(__file__).parent)]
    subprocess.run([sys.executable, "-c", f"import sys; sys.path += {path}\n{code}"], check=True)
    with np.load("made.npz") as made:
        images, tokens, decoded = (
            torch.from_numpy(made[n]) for n in ("images", "tokens", "decoded")
        )
    with torch.no_grad():
        expected = VQGAN.from_checkpoint(last)(images)
    assert (tokens == expected.tokens).float().mean() >= 0.999
    assert (decoded.permute(0, 3, 1, 2) - expected.reconstruction).abs().max() < 1e-3
