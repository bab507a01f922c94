"""The log of a rank: in its file from the first message to the traceback."""

import logging
import sys
import warnings
from pathlib import Path

import pytest
from pytorch_lightning.utilities import rank_zero_only

from vqgan_train.training.run.logs import configure_logging, rank_log

log = logging.getLogger("vqgan_train.somewhere")


@pytest.fixture(params=[0, 3])
def rank(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(rank_zero_only, "rank", request.param, raising=False)
    return int(request.param)


def say_and_fail(folder: Path) -> None:
    with rank_log() as file:
        log.info("before the folder is known")
        file.open(folder)
        log.warning("a sample that cannot be read")
        warnings.warn("a library's", UserWarning, stacklevel=1)
        raise RuntimeError("what ends it")


def test_all_is_in_the_file_and_the_first_rank_speaks(
    tmp_path: Path, rank: int, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging()
    before = {name: list(logging.getLogger(name).handlers) for name in ("vqgan_train", "torch")}
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        shown = lambda message, *_: sys.stderr.write(str(message))  # noqa: E731
        warnings.showwarning = shown
        with pytest.raises(RuntimeError):
            say_and_fail(tmp_path)
        assert warnings.showwarning is shown
    written = (tmp_path / "logs" / f"rank_{rank}.log").read_text()
    out, err = capsys.readouterr()
    for said in ("before the folder is known", "a sample that cannot be read"):
        assert written.count(said) == 1
        assert out.count(said) == (rank == 0)
    assert written.count("UserWarning: a library's") == 1
    assert ("a library's" in err) == (rank == 0)
    assert "Traceback" in written
    assert "RuntimeError: what ends it" in written
    assert "process" not in out
    for name, handlers in before.items():
        assert logging.getLogger(name).handlers == handlers


def test_a_run_that_goes_on_adds_to_the_file(tmp_path: Path) -> None:
    for _ in range(2):
        with rank_log() as file:
            file.open(tmp_path)
    assert (tmp_path / "logs" / "rank_0.log").read_text().count("begins") == 2
