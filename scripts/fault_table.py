"""Read faulty shards and images with the code that training uses, and count what happens.

    python scripts/fault_table.py [--every N]

Correct outcomes are: the image is read, it is left out and named, or the shard is refused with a
message. Anything else is a bug and makes the script fail: another exception, a hang (10 s), samples
lost without a message, or a wrong image. Takes a few minutes. Writes docs/benchmarks/faults.json
and the table in docs/faults.md; with `--every N` it tries every Nth case and writes no files.
"""

import logging
import os
import re
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from command_line import Parser, count
from faults import ShardFault, image_faults, picture, shard_faults, small_members
from pages import ROOT, machine, put, table, write_json
from tqdm import tqdm
from webdataset import TarWriter

from vqgan_train.images.transforms import ImageTransform
from vqgan_train.shards.index import index_shards
from vqgan_train.shards.naming import expand_shards
from vqgan_train.system.errors import ShardError
from vqgan_train.training.data.orders import SampleRef
from vqgan_train.training.data.pipeline import ShardDataset

RESULTS = ROOT / "docs" / "benchmarks" / "faults.json"
PAGE = ROOT / "docs" / "faults.md"
PACKAGES = ("torch", "pillow", "simplejpeg", "webdataset")

TRANSFORM = ImageTransform(16, 16, random_crop=False, random_flip=False)
MAX_SECONDS = 10
OUTCOMES = {
    "converted": "read",
    "named": "left out, named",
    "refused": "refused before the run",
    "bug": "exceptions, hangs, silent losses",
}
SECTIONS = {"images": "Images", "shards": "Shards"}

log = logging.getLogger("vqgan_train.shards.index")


class HangError(BaseException):
    """Reading took too long. Not an Exception, so that no code handles it as a broken image."""


def measure(every: int = 1) -> dict[str, Any]:
    """Try every Nth case of each fault; return machine and outcomes, as written to faults.json."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name, _cache_in(Path(name)), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(name)
        for fault, images in tqdm(image_faults().items(), "images"):
            outcomes = _try_images(folder, [*islice(images, 0, None, every)])
            rows.append(_row("images", fault, outcomes))
        for fault, shards in tqdm(shard_faults().items(), "shards"):
            outcomes = (_try_shard(folder, shard) for shard in islice(shards, 0, None, every))
            rows.append(_row("shards", fault, outcomes))
    return {"machine": machine(PACKAGES), "every": every, "rows": rows}


def _row(section: str, fault: str, outcomes: Iterable[tuple[str, str]]) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    messages: dict[str, str] = {}
    for outcome, message in outcomes:
        counts[outcome] += 1
        messages.setdefault(outcome, message)
    return {
        "section": section,
        "fault": fault,
        "tried": counts.total(),
        **{outcome: counts[outcome] for outcome in OUTCOMES},
        "messages": {k: _without_folders(v)[:200] for k, v in messages.items() if v},
    }


def _without_folders(message: str) -> str:
    """Remove the folders of this machine from a message."""
    text = re.sub(r"/\S*/(?=\w+\.tar)", "", message)
    return text.replace(str(Path.cwd()), ".")


@contextmanager
def _cache_in(folder: Path) -> Iterator[None]:
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    try:
        yield
    finally:
        del os.environ["XDG_CACHE_HOME"]
        if before is not None:
            os.environ["XDG_CACHE_HOME"] = before


@contextmanager
def _no_hang() -> Iterator[None]:
    def give_up(_number: int, _frame: FrameType | None) -> None:
        raise HangError(f"more than {MAX_SECONDS} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(MAX_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _try_images(folder: Path, images: Sequence[bytes]) -> Iterator[tuple[str, str]]:
    """Read one shard that contains all the images; yield outcome and message of each."""
    path = folder / "images.tar"
    with TarWriter(str(path), mtime=0) as writer:
        for number, content in enumerate(images):
            writer.write({"__key__": f"{number:06d}", "jpg": content, "txt": b"a caption"})
    data = ShardDataset(index_shards([path]), TRANSFORM, seed=0)
    assert len(data) == len(images)
    for number in range(len(images)):
        try:
            with _no_hang():
                yield _outcome_of(*data[SampleRef(0, number)], key=f"images.tar/{number:06d}")
        except (Exception, HangError) as error:
            yield "bug", f"{type(error).__name__}: {error}"


def _outcome_of(name: str, image: torch.Tensor | None, key: str) -> tuple[str, str]:
    if image is None:
        has_reason = re.fullmatch(rf"{re.escape(key)}: .+", name, re.DOTALL)
        return ("named" if has_reason else "bug"), name
    is_whole = image.shape == (3, 16, 16) and bool(image.isfinite().all())
    return ("converted" if is_whole and name == key else "bug"), ""


def _try_shard(folder: Path, fault: ShardFault) -> tuple[str, str]:
    """Index and read a shard beside a good one, as a run would; return outcome and message."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        return _try_shard_in(Path(place), fault)


def _try_shard_in(place: Path, fault: ShardFault) -> tuple[str, str]:
    bad, good = place / "bad.tar", place / "good.tar"
    with TarWriter(str(good), mtime=0) as writer:
        writer.write({"__key__": "good", "png": picture("PNG")})
    if fault.content is not None:
        bad.write_bytes(fault.content)
    messages: list[str] = []
    try:
        with _no_hang(), _collect_log(messages):
            shards = index_shards(expand_shards([str(bad), str(good)]))
            if fault.meanwhile is not None:
                fault.meanwhile(bad)
            data = ShardDataset(shards, TRANSFORM, seed=0)
            samples = [data[SampleRef(0, number)] for number in range(len(data))]
    except ShardError as error:
        return ("refused" if "bad.tar" in str(error) else "bug"), str(error)
    except (Exception, HangError) as error:
        return "bug", f"{type(error).__name__}: {error}"
    if {path.name for path in place.iterdir()} - {"bad.tar", "good.tar"}:
        return "bug", "a file appeared"
    messages += [sample.name for sample in samples if sample.image is None]
    images = [s.image for s in samples if s.image is not None and s.name.startswith("bad.tar/")]
    return _judge(
        fault, images, [text for text in messages if "bad.tar" in text], samples[-1].image
    )


def _judge(
    fault: ShardFault, images: Sequence[torch.Tensor], messages: Sequence[str], good: object
) -> tuple[str, str]:
    """Check that every lost sample was reported and every image is correct."""
    whole = len([name for name in small_members() if name.endswith(".png")])
    if good is None:
        return "bug", "the shard beside it was lost too"
    if any(not torch.equal(image, torch.zeros_like(image)) for image in images[:whole]):
        return "bug", "an image is another one"
    if fault.images is not None and len(images) != fault.images:
        return "bug", f"{len(images)} images instead of {fault.images}: {messages}"
    if not messages and len(images) < whole:
        return "bug", f"only {len(images)} images, and nothing told"
    return ("named", messages[0]) if messages else ("converted", "")


@contextmanager
def _collect_log(messages: list[str]) -> Iterator[None]:
    """Collect the messages that the shard index logs."""
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    propagate, log.propagate = log.propagate, False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = propagate


def to_table(results: dict[str, Any]) -> str:
    """Format the results as a Markdown table."""
    head = ("what was tried", "times", *OUTCOMES.values())
    lines: list[tuple[object, ...]] = []
    for section, title in SECTIONS.items():
        rows = [row for row in results["rows"] if row["section"] == section]
        lines.append((f"**{title}**", *_counts(rows)))
        lines += [(row["fault"], *_counts([row])) for row in rows]
    where = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    return f"{table(head, lines)}\n\n{where['date']}, Python {where['python']}, {versions}."


def _counts(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [f"{sum(row[column] for row in rows):,}" for column in ("tried", *OUTCOMES)]


def main() -> None:
    """Try all faults and write the table; exit with 1 if there is a bug."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--every", type=count, default=1, metavar="N", help="try every Nth case, write no files"
    )
    every = parser.parse_args().every
    results = measure(every)
    print(to_table(results))
    bugs = [row for row in results["rows"] if row["bug"]]
    for row in bugs:
        print(f"BUG {row['fault']}: {row['messages']['bug']}", file=sys.stderr)
    if every == 1:
        write_json(RESULTS, results)
        put(PAGE, "readers", to_table(results))
    sys.exit(bool(bugs))


if __name__ == "__main__":
    main()
