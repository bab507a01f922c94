"""`prepare_cc3m` and `prepare_yfcc_links`: download linked images with img2dataset."""

from pathlib import Path

from vqgan_train.config.preparation import LinksConfig
from vqgan_train.preparation.command_report import MAX_COUNTS, publish_report, report_line
from vqgan_train.preparation.img2dataset import (
    VERSION,
    DownloadReport,
    prepare_environment,
    read_report,
    remove_empty_shards,
    require_min_success,
    run_img2dataset,
)
from vqgan_train.preparation.links import (
    BadRows,
    ReadLinks,
    read_cc3m,
    read_yfcc_links,
    write_lists,
)
from vqgan_train.shards.naming import expand_shards
from vqgan_train.system.files import file_signature, fingerprint
from vqgan_train.system.job_file import open_job

MAX_LINKS_PER_LIST = 1_000_000
"""A limit, because img2dataset holds a whole list in memory."""

JPEG_QUALITY = 95


def prepare_cc3m(config: LinksConfig) -> None:
    """Download the images of CC3M's list of links."""
    download(config, read_cc3m)


def prepare_yfcc_links(config: LinksConfig) -> None:
    """Download the images of YFCC100M's records."""
    download(config, read_yfcc_links)


def download(config: LinksConfig, read: ReadLinks) -> None:
    """Write img2dataset's lists of links, run it on them, and report the failed links.

    Args:
        config: settings of the command.
        read: reads the links of one file.

    Raises:
        UserError: `links` or `output` cannot be used, img2dataset failed, or it got too few images.
    """
    output = Path(config.output).expanduser()
    lists, shards = output / "lists", output / "shards"
    files = expand_shards(config.links, noun="lists of links", ending="")
    for file in files:  # a wrong kind of file is refused before the environment is made
        next(read(file, BadRows()), None)
    program = prepare_environment(None if config.environment is None else Path(config.environment))
    job = {
        "command": read.__name__,
        "links_fingerprint": fingerprint(map(file_signature, files)),
        "samples_per_shard": config.samples_per_shard,
        "shorter_side": config.shorter_side,
        "img2dataset": VERSION,
    }
    open_job(output, job)
    # Lists hold a whole number of shards, because each list ends with a shard that may be small.
    rows = max(MAX_LINKS_PER_LIST // config.samples_per_shard, 1) * config.samples_per_shard
    counts, bad = write_lists(files, read, lists, rows=rows)
    shards.mkdir(exist_ok=True)
    run_img2dataset(program, options_of(config, lists, shards))
    report = read_report(shards, counts, config.samples_per_shard)
    num_removed = remove_empty_shards(shards)
    publish_report(output, report_lines(report, bad, shards, num_removed))
    require_min_success(report, config.min_success_fraction)


def options_of(config: LinksConfig, lists: Path, shards: Path) -> dict[str, object]:
    """Translate the settings into options of img2dataset's command line."""
    return {
        "url_list": lists.resolve(),
        "input_format": "jsonl",
        "url_col": "url",
        "caption_col": "caption",
        "output_folder": shards.resolve(),
        "output_format": "webdataset",
        "number_sample_per_shard": config.samples_per_shard,
        # No crop: training crops, and can do so at random.
        "resize_mode": "no" if config.shorter_side is None else "keep_ratio",
        "image_size": config.shorter_side or 256,
        "resize_only_if_bigger": True,
        # Encode only images that are scaled, have an alpha channel or are not JPEGs.
        "skip_reencode": True,
        "encode_format": "jpg",
        "encode_quality": JPEG_QUALITY,
        "extract_exif": False,  # it contains places and names
        "processes_count": config.processes,
        "thread_count": config.threads,
        "timeout": config.timeout_seconds,
        "retries": config.retries,
        "enable_wandb": False,
    }


def report_lines(report: DownloadReport, bad: BadRows, shards: Path, num_removed: int) -> list[str]:
    """Report how many links gave an image, and why the others failed.

    Args:
        report: sums over all shards.
        bad: rows without a link, in the files of links.
        shards: folder of the shards.
        num_removed: shards that were removed because they had no image.
    """
    reasons = report.reasons.most_common()
    lines = [
        report_line("links", report.links),
        report_line("downloaded", f"{report.downloaded} ({report.downloaded / report.links:.1%})"),
        report_line("failed", report.links - report.downloaded),
        *(report_line("", f"{count} x {reason}") for reason, count in reasons[:MAX_COUNTS]),
    ]
    rare = reasons[MAX_COUNTS:]
    if rare:
        num_rare = sum(count for _, count in rare)
        lines.append(report_line("", f"{num_rare} x {len(rare)} other reasons"))
    if bad.count:
        examples = "; ".join(bad.examples)
        lines.append(report_line("rows left out", f"{bad.count} without a link: {examples}"))
    num_shards = len(list(shards.glob("*.tar")))
    lines.append(report_line("shards", f"{num_shards}: '{shards}/*.tar'"))
    if num_removed:
        lines.append(report_line("", f"{num_removed} more without any image, removed"))
    return lines
