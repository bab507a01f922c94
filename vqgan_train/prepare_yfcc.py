"""`python -m vqgan_train.prepare_yfcc`: YFCC100M's records and images become shards."""

import sys
from pathlib import Path

from vqgan_train.command import run_command
from vqgan_train.config import PrepareYfccConfig


def main() -> None:
    """Run the command."""
    run_command("prepare_yfcc", PrepareYfccConfig, prepare_yfcc)


def prepare_yfcc(config: PrepareYfccConfig) -> None:
    """Find the images of the records, pack them with their captions, say what was left out."""
    from tqdm import tqdm

    from vqgan_train.data import expand_shards
    from vqgan_train.preparation.job import open_job
    from vqgan_train.preparation.packing import require_pictures
    from vqgan_train.preparation.records import pair_with_images
    from vqgan_train.preparation.report import packed, write_report
    from vqgan_train.preparation.yfcc import pack_records

    output = Path(config.output).expanduser()
    images = None if config.images is None else Path(config.images)
    paths = expand_shards(config.records, noun="files of records", ending="")
    files = pair_with_images(paths, images)
    # Which files is not part of the job: few have room for 1.9 TB at once.
    open_job(output, {"command": "prepare_yfcc", "samples_per_shard": config.samples_per_shard})
    with tqdm(desc="packing", unit="image") as bar:
        report = pack_records(
            files,
            output,
            samples_per_shard=config.samples_per_shard,
            num_workers=config.num_workers,
            bar=bar,
        )
    require_pictures(output, report)
    lines = packed(report, output)
    write_report(output, lines)
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
