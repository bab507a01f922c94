"""Run the model card's recipe with a tiny model, on any machine, in minutes.

    python scripts/recipe_in_small.py OUTPUT

1. Writes a random checkpoint in the format of the ImageNet checkpoint of 2021.
2. Trains Part 1 from it, kills the run, and resumes it.
3. Trains Part 2 from Part 1.
4. Checks that this package and taming-transformers read the result and make the same tokens.

Needs the package's `dev` extra, pip and a package index (for omegaconf 2.0.0).
"""

import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import torch
from command_line import Parser
from torch import nn

from vqgan_train import VQGAN
from vqgan_train.checkpoint.architecture import discriminator_architecture
from vqgan_train.checkpoint.reading import read_checkpoint, read_networks

PART1_IMAGES, PART2_IMAGES = 40, 80
SECONDS_TO_FIRST_CHECKPOINT = 300

SHORT = [
    "data=sample_photos",
    "run.checkpoint_every_steps=2",
    "run.val_every_steps=5",
    "run.log_every_steps=1",
    "trainer.accelerator=cpu",
]


def recipe_in_small(output: Path) -> Path:
    """Run the recipe; exit with an error at the first step that fails.

    Returns:
        Part 2's last checkpoint.
    """
    imagenet, part1, part2 = (output / name for name in ("imagenet.ckpt", "part1", "part2"))
    say("a checkpoint as of 2021")
    make_imagenet_checkpoint(imagenet)

    say("Part 1, killed after its first checkpoint")
    small = [*SHORT, *sizes_of(imagenet)]
    command = training("part1", part1, PART1_IMAGES, f"model.init_from={imagenet}", *small)
    last = part1 / "checkpoints" / "last.ckpt"
    kill_when_there(command, last)
    reached = read_checkpoint(last)
    require(reached["ShardDataModule"]["position"] < PART1_IMAGES, "Part 1 was killed too late")
    say(f"Part 1 again, from step {reached['global_step']}")
    subprocess.run(command, check=True)

    say("Part 2")
    command = training("part2", part2, PART2_IMAGES, f"run.parent={last}", *small)
    subprocess.run(command, check=True)
    final = part2 / "checkpoints" / "last.ckpt"
    check_ancestry(final, parent=last)
    check_tokens(final)
    return final


def say(what: str) -> None:
    """Print a heading."""
    print(f"\n== {what}", flush=True)


def require(holds: bool, problem: str) -> None:
    """Exit with a message unless a condition holds."""
    if not holds:
        sys.exit(problem)


def make_imagenet_checkpoint(path: Path) -> None:
    """Write the checkpoint, which contains objects of omegaconf 2.0.0 and classes of Lightning."""
    script = Path(__file__).with_name("make_legacy_checkpoint.py")
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, str(script), str(path)], check=True)


def sizes_of(checkpoint: Path) -> list[str]:
    """Return the settings that give both networks the shapes of the checkpoint's weights."""
    networks = read_networks(checkpoint)
    return [
        f"model.{network}.{name}={value}"
        for network, sizes in (
            ("architecture", networks.architecture),
            ("discriminator", discriminator_architecture(networks.discriminator)),
        )
        for name, value in sizes.items()
        if name not in ("in_channels", "out_channels")
    ]


def training(experiment: str, folder: Path, images: int, *overrides: str) -> list[str]:
    """Return the command that trains one part."""
    command = [sys.executable, "-m", "vqgan_train", f"experiment={experiment}"]
    return [*command, f"run.output_dir={folder}", f"run.max_images={images}", *overrides]


def kill_when_there(command: list[str], file: Path) -> None:
    """Run a command and kill it with SIGKILL soon after a file has appeared."""
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + SECONDS_TO_FIRST_CHECKPOINT
        while not file.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{file} was not written.")
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def check_ancestry(final: Path, parent: Path) -> None:
    """Check that the last checkpoint names its parent and continued after the parent's images."""
    content = read_checkpoint(final)
    named = content["vqgan_train"]["parent"]
    say(f"{final} continues {named['source']}, after {named['images']} images")
    images = content["ShardDataModule"]["position"]
    require(named["source"] == str(parent), "Part 2 names another parent")
    require(named["images"] == PART1_IMAGES, f"Part 1 saw {named['images']} images")
    require(images == PART2_IMAGES, f"both parts saw {images} images")


def check_tokens(checkpoint: Path) -> None:
    """Check that this package and taming-transformers make the same tokens of the same images."""
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        ours = VQGAN.from_checkpoint(checkpoint).encode(images)
        theirs = taming_model(checkpoint).encode(images)[2][2].view(len(images), -1)
    equal = int((ours == theirs).sum())
    say(f"tokens: {equal} of {ours.numel()} are those of taming-transformers")
    require(equal == ours.numel(), "the tokens differ")


def taming_model(checkpoint: Path) -> nn.Module:
    """Load the checkpoint into the original's model with its own `init_from_ckpt`."""
    # taming.models.vqgan imports this function from a script that needs a Lightning of 2021.
    script: Any = types.ModuleType("taming.main")
    script.instantiate_from_config = lambda config: config["module"]
    sys.modules["taming.main"] = script
    from taming.models.vqgan import VQModel

    names = {
        "ch": "channels",
        "ch_mult": "channel_multipliers",
        "num_res_blocks": "num_residual_blocks",
        "attn_resolutions": "attention_resolutions",
        "resolution": "resolution",
        "z_channels": "latent_channels",
    }
    architecture = read_networks(checkpoint).architecture
    settings = {theirs: architecture[ours] for theirs, ours in names.items()}
    settings |= {"in_channels": 3, "out_ch": 3, "dropout": 0.0, "double_z": False}
    sizes = architecture["codebook_size"], architecture["code_dim"]
    model = VQModel(settings, {"module": nn.Identity()}, *sizes, ckpt_path=str(checkpoint))
    return model.eval()


def main() -> None:
    """Read the command line and run the recipe."""
    parser = Parser(__doc__)
    parser.add_argument("output", type=Path, help="folder for the runs; must not contain them yet")
    recipe_in_small(parser.parse_args().output)


if __name__ == "__main__":
    main()
