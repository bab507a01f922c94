"""`python -m vqgan_train.pack`: folders of images become shards."""

import sys
from pathlib import Path

from vqgan_train.command import run_command
from vqgan_train.config import PackConfig


def main() -> None:
    """Run the command."""
    run_command("pack", PackConfig, pack)


def pack(config: PackConfig) -> None:
    """Look through the folders, pack what can be read, say what could not."""
    from tqdm import tqdm

    from vqgan_train.preparation.folders import (
        image_files,
        look_through,
        pack_folders,
        read_captions,
        without_image,
    )
    from vqgan_train.preparation.job import open_job, stamp
    from vqgan_train.preparation.packing import require_pictures
    from vqgan_train.preparation.report import line, listed, packed, write_report

    inputs, output = (
        [Path(folder).expanduser() for folder in config.inputs],
        Path(config.output).expanduser(),
    )
    table = None if config.captions is None else Path(config.captions)
    columns = config.captions_path_column, config.captions_text_column
    captions = None if table is None else read_captions(table, *columns)
    found = look_through(inputs)
    job = {
        "command": "pack",
        "inputs": [str(folder.resolve()) for folder in inputs],
        "images": found.images,
        "images_fingerprint": found.fingerprint,
        "samples_per_shard": config.samples_per_shard,
        "captions": None if table is None else [stamp(table), columns],
    }
    open_job(output, job)
    with tqdm(total=found.images, desc="packing", unit="image") as bar:
        report = pack_folders(
            image_files(inputs, captions),
            output,
            source=found.fingerprint,
            samples_per_shard=config.samples_per_shard,
            num_workers=config.num_workers,
            bar=bar,
        )
    require_pictures(output, report)
    lines = packed(report, output)
    if found.others:
        lines.append(line("other files", listed(found.others)))
    unused = without_image(captions or {}, image_files(inputs, None))
    if unused:
        lines.append(line("no image for", f"{len(unused)} captions, for example {min(unused)}"))
    write_report(output, lines)
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
