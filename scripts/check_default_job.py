"""Check that the default job keeps the README's promise.

    python scripts/check_default_job.py RUN SECONDS

Fails unless validation LPIPS fell by at least 30 % from step 0, in at most six minutes.
"""

import csv
import sys
from pathlib import Path

from command_line import Parser

MAX_SECONDS = 360
MIN_FALL = 0.30


def check(run: Path, seconds: int) -> None:
    """Print fall and duration; exit with an error if one of them breaks the promise."""
    with (run / "metrics.csv").open(newline="") as file:
        values = [row["val/loss/perceptual"] for row in csv.DictReader(file)]
    first, *_, last = (float(value) for value in values if value)
    fall = 1 - last / first
    print(f"validation LPIPS {first:.3f} -> {last:.3f} ({-fall:.0%}) in {seconds} s")
    if fall < MIN_FALL or seconds > MAX_SECONDS:
        sys.exit(f"The default job promises {-MIN_FALL:.0%} in {MAX_SECONDS} s.")


def main() -> None:
    """Read the command line and check the run."""
    parser = Parser(__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument("seconds", type=int, metavar="SECONDS", help="duration of the run")
    arguments = parser.parse_args()
    check(arguments.run, arguments.seconds)


if __name__ == "__main__":
    main()
