"""Settings of `python -m vqgan_train.pack`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vqgan_train.config.checks import as_list, require_at_least


@dataclass(kw_only=True, slots=True)
class PackConfig:
    """Folders of images, and the shards that they become."""

    inputs: Any
    """Folder of images, of any depth, or a list of folders."""

    output: str
    """Folder for the shards; new, empty, or that of the same command before."""

    samples_per_shard: int
    """Images that make a shard. What cannot be read is left out, so shards may have fewer."""

    captions: str | None
    """CSV or TSV file with a header. null: text files beside images, a.txt of a.jpg."""

    captions_path_column: str
    """Column that names the image, relative to its input folder."""

    captions_text_column: str
    """Column that holds the caption."""

    num_workers: int
    """Processes that read and decode. 0: this one alone."""

    def __post_init__(self) -> None:
        self.inputs = as_list(self.inputs)
        require_at_least(1, samples_per_shard=self.samples_per_shard)
        require_at_least(0, num_workers=self.num_workers)
