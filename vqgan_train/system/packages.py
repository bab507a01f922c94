"""Optional packages, and packages that are only downloaded for the files in them."""

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vqgan_train.system.errors import UserError


def require_packages(extra: str, purpose: str, *packages: str) -> None:
    """Check that the packages of an extra are installed.

    Args:
        extra: name of the extra in pyproject.toml that installs them.
        purpose: what they are for, with a verb: "Parquet files need".
        packages: names as they are imported.

    Raises:
        UserError: one of them is not installed.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"{purpose} {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not "
            f"installed: pip install 'vqgan_train[{extra}]'"
        )


PIP_TIMEOUT_SECONDS = 600


@contextmanager
def downloaded(requirement: str) -> Iterator[Path]:
    """Download a package's archive with pip; the archive exists inside the block only.

    Args:
        requirement: `NAME==VERSION --hash=sha256:HEX`. pip checks the archive's hash before it
            runs a setup.py for the metadata.

    Raises:
        OSError: pip failed; the error has pip's message.
    """
    with tempfile.TemporaryDirectory() as folder:
        requirements, archives = Path(folder, "requirements.txt"), Path(folder, "archives")
        requirements.write_text(requirement)
        archives.mkdir()
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--require-hashes", "--requirement", str(requirements)]
        command += ["--retries", "1", "--dest", str(archives)]
        try:
            finished = subprocess.run(
                command, capture_output=True, text=True, timeout=PIP_TIMEOUT_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise OSError(f"pip took more than {PIP_TIMEOUT_SECONDS} s") from error
        if finished.returncode != 0:
            lines = finished.stderr.splitlines() or [f"pip ended with code {finished.returncode}"]
            raise OSError(next((line for line in lines if line.startswith("ERROR")), lines[-1]))
        yield next(archives.iterdir())
