"""Download lists of links with img2dataset: what prepare_cc3m and prepare_yfcc_links do."""

import sys
from pathlib import Path

from vqgan_train.config import LinksConfig
from vqgan_train.preparation.command_report import downloaded, write_report
from vqgan_train.preparation.img2dataset import (
    VERSION,
    Download,
    prepare_environment,
    read_report,
    remove_empty_shards,
    require_enough,
    run_img2dataset,
)
from vqgan_train.preparation.links import ReadLinks, read_cc3m, read_yfcc_links, write_lists
from vqgan_train.shards.naming import expand_shards
from vqgan_train.system.files import file_signature, fingerprint
from vqgan_train.system.jobs import open_job

LINKS_A_LIST = 1_000_000
"""About what img2dataset holds in memory at once."""


def download(config: LinksConfig, read: ReadLinks) -> None:
    """Write img2dataset's lists, let it download them, say what could not be had."""
    output = Path(config.output).expanduser()
    lists, shards = output / "lists", output / "shards"
    links = expand_shards(config.links, noun="lists of links", ending="")
    program = prepare_environment(None if config.environment is None else Path(config.environment))
    how = Download(
        shorter_side=config.shorter_side,
        samples_per_shard=config.samples_per_shard,
        processes=config.processes,
        threads=config.threads,
        timeout_seconds=config.timeout_seconds,
        retries=config.retries,
    )
    job = {
        "command": read.__name__,
        "links_fingerprint": fingerprint(map(file_signature, links)),
        "samples_per_shard": how.samples_per_shard,
        "shorter_side": how.shorter_side,
        "img2dataset": VERSION,
    }
    open_job(output, job)
    # A list that is no multiple of a shard would end with a small one.
    rows = max(LINKS_A_LIST // how.samples_per_shard, 1) * how.samples_per_shard
    counts, bad = write_lists(links, read, lists, rows=rows)
    run_img2dataset(program, lists, shards, how)
    report = read_report(shards, counts, how.samples_per_shard)
    lines = downloaded(report, bad, shards, remove_empty_shards(shards))
    write_report(output, lines)
    sys.stdout.write("\n".join(lines) + "\n")
    require_enough(report, config.min_success_fraction)


def download_cc3m(config: LinksConfig) -> None:
    """Download the images that CC3M's TSV files list."""
    download(config, read_cc3m)


def download_yfcc(config: LinksConfig) -> None:
    """Download the images that YFCC100M's records link to."""
    download(config, read_yfcc_links)
