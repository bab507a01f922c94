"""Check what the default job promises.

    python scripts/check_default_job.py RUN SECONDS

Validation LPIPS at least 30 % below its value at step 0, in less than six minutes.
"""

import csv
import sys
from pathlib import Path

from command_line import Parser

MOST_SECONDS = 360
LEAST_FALL = 0.30


def check(run: Path, seconds: int) -> None:
    """Print the figures, and fail if one is not reached."""
    with (run / "metrics.csv").open(newline="") as file:
        values = [row["val/loss/perceptual"] for row in csv.DictReader(file)]
    first, *_, last = (float(value) for value in values if value)
    fall = 1 - last / first
    print(f"validation LPIPS {first:.3f} -> {last:.3f} ({-fall:.0%}) in {seconds} s")
    if fall < LEAST_FALL or seconds > MOST_SECONDS:
        sys.exit(f"The default job promises {-LEAST_FALL:.0%} in {MOST_SECONDS} s.")


def main() -> None:
    """Read the command line."""
    parser = Parser(__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument("seconds", type=int, metavar="SECONDS", help="that it took")
    given = parser.parse_args()
    check(given.run, given.seconds)


if __name__ == "__main__":
    main()
