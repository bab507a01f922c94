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
    """Open the files, compare the checkpoint with theirs, write pictures."""
    from tqdm import tqdm

    from vqgan_train.checkpoint_source import fetch_checkpoint
    from vqgan_train.decoding import decode_files, find_token_files, open_all
    from vqgan_train.tokenizer import load_tokenizer
    from vqgan_train.tokens.devices import choose_device
    from vqgan_train.tokens.job import join_job
    from vqgan_train.tokens.share import share_of_process

    device = choose_device(config.accelerator.value, share_of_process(os.environ).local_rank)
    checkpoint = fetch_checkpoint(config.checkpoint, "checkpoint")
    folder = Path(config.output).expanduser()
    files = find_token_files(config.tokens)
    tokenizer = load_tokenizer(checkpoint, device, config.precision.value)
    opened = open_all(files, tokenizer, allow_other=config.allow_other_checkpoint)
    job = {
        "command": "decode",
        "weights_sha256": tokenizer.weights_sha256,
        "tokens": [metadata.to_json() for _, (metadata, _) in opened],
    }
    join_job(folder, job)
    with tqdm(total=config.max_images, desc="decoding", unit="image") as bar:
        decode_files(opened, tokenizer, folder, batch_size=config.batch_size, bar=bar)
    ranges = sorted({metadata.pixel_range for _, (metadata, _) in opened})
    sys.stdout.write(
        f"decoded  {bar.n:,} images, pixel range {' and '.join(ranges)}\n"
        f"files    '{folder}/*/*.png'\n"
    )


if __name__ == "__main__":
    main()
