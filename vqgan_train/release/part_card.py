"""What the card says of one part of the training."""

import re

from vqgan_train.release.lineage import Part
from vqgan_train.release.run_records import Records
from vqgan_train.release.template import fill, inline, read_template

WEB_ADDRESS = re.compile(r"https?://[^\s()<>]+")

CHANGED = "-dirty"
"""What git appends to the revision of a checkout with changes that were not committed."""


def part_of_card(part: Part, records: Records, learning_rate: float | None) -> str:
    """What the card says of one part.

    Args:
        part: the run.
        records: what is at hand of it.
        learning_rate: the one used, if the metrics do not say.
    """
    settings = part.settings
    data, loss, optim, trainer = (settings[name] for name in ("data", "loss", "optim", "trainer"))
    rates = records.values("train/learning_rate") or ([learning_rate] if learning_rate else [])
    (first_step, first_image), (step, image) = part.start, part.end
    steps, images = step - first_step, image - first_image
    run = part.wandb
    is_online = WEB_ADDRESS.fullmatch(run.get("url", ""))
    name = "/".join(run[key] for key in ("entity", "project", "id") if run.get(key))
    values = {
        "number": str(part.number),
        "run": "" if run else None,
        "run_url": run["url"] if is_online else None,
        "run_name": None if is_online or not run else f"`{inline(name)}`",
        "first_step": f"{first_step + 1:,}",
        "last_step": f"{step:,}",
        "images": f"{images:,}",
        "images_a_step": f"{images / steps:,.4g}" if steps else "0",
        **{key: str(data[key]) for key in ("resize", "image_size")},
        **{key: "" if data[key] else None for key in ("random_crop", "random_flip")},
        **{
            key: f"{loss[key]:g}"
            for key in ("perceptual_weight", "codebook_weight", "adversarial_weight")
        },
        "learning_rate": " and ".join(f"{rate:g}" for rate in rates) or None,
        "base_rate": f"{optim['learning_rate']:g}",
        "scaling": inline(optim["learning_rate_scaling"]),
        "betas": " and ".join(f"{beta:g}" for beta in optim["betas"]),
        **{
            key: inline(trainer[key])
            for key in ("accelerator", "devices", "num_nodes", "precision")
        },
        "version": inline(part.packages["vqgan_train"]),
        "revision": inline(part.git_revision).removesuffix(CHANGED) or None,
        "uncommitted": "" if part.git_revision.endswith(CHANGED) else None,
        "torch": inline(part.packages["torch"]),
        "lightning": inline(part.packages["pytorch-lightning"]),
        "config_file": f"training/part{part.number}/config.yaml",
        "metrics_file": f"training/part{part.number}/metrics.csv" if records.metrics else None,
    }
    return fill(read_template("part.md"), values)
