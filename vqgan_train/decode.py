"""`python -m vqgan_train.decode`: tokens become pictures."""

import os
import sys
from pathlib import Path

from vqgan_train.command import run_command
from vqgan_train.config import DecodeConfig


def main() -> None:
    """Run the command."""
    run_command("decode", DecodeConfig, decode)


def decode(config: DecodeConfig) -> None:
    """Open the files, compare the checkpoint with theirs, write this process's pictures."""
    from tqdm import tqdm

    from vqgan_train.checkpoint_source import fetch_checkpoint
    from vqgan_train.decoding import decode_files, find_token_files, require_same_tokenizer
    from vqgan_train.tokenizer import load_tokenizer
    from vqgan_train.tokens.devices import choose_device
    from vqgan_train.tokens.job import join_job
    from vqgan_train.tokens.share import share_of_process
    from vqgan_train.tokens.token_file import open_token_file, which_files

    share = share_of_process(os.environ)
    device = choose_device(config.accelerator.value, share.local_rank)
    checkpoint = fetch_checkpoint(config.checkpoint, "checkpoint")
    folder = Path(config.output).expanduser()
    pixel_range = config.pixel_range.value if config.pixel_range else None
    files = [open_token_file(path, pixel_range) for path in find_token_files(config.tokens)]
    tokenizer = load_tokenizer(checkpoint, device, config.precision.value)
    for file in files:
        require_same_tokenizer(file, tokenizer, allow_other=config.allow_other_checkpoint)
    ranges = sorted({file.pixel_range for file in files})
    job = {
        "command": "decode",
        "weights_sha256": tokenizer.weights_sha256,
        "precision": config.precision.value,
        "pixel_range": ranges,
        "max_images": config.max_images,
        "tokens": which_files(files),
    }
    join_job(folder, job)
    with tqdm(total=config.max_images, desc="decoding", unit="image") as bar:
        written = decode_files(
            files,
            tokenizer,
            folder,
            batch_size=config.batch_size,
            max_images=config.max_images,
            share=share,
            bar=bar,
        )
    by = f" in process {share.rank} of {share.ranks}" if share.ranks > 1 else ""
    sys.stdout.write(
        f"decoded  {written:,} images{by}, pixel range {' and '.join(ranges)}\n"
        f"files    '{folder}/*/*.png'\n"
    )


if __name__ == "__main__":
    main()
