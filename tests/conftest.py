import gc
import os
import signal
import sys
from collections.abc import Iterator
from functools import cache

import pytest
import torch
from wandb_server import WandbServer

# The tests' tensors are small: a second thread costs more in waiting than it saves in work.
# Processes that tests start get as many, because sums round differently on two threads.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

# A shell without job control starts background jobs with Ctrl-C ignored, and the processes that
# tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Exclude the imported modules from garbage collection, which would look at them each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def runs_draw_no_curves() -> Iterator[None]:
    """Let runs and evaluations of this process skip their diagrams, which cost half their time.

    Tests of the diagrams themselves ask for `runs_draw_curves` or call the drawing functions.
    """
    with pytest.MonkeyPatch.context() as patch:
        for module, name, substitute in (
            ("vqgan_train.training.report", "write_curves", lambda path, rows: False),
            ("vqgan_train.evaluation.page", "draw_usage", lambda checkpoints: "data:,"),
        ):
            if module in sys.modules:  # the file of the test imports what trains or evaluates
                patch.setattr(sys.modules[module], name, substitute)
        yield


@pytest.fixture(scope="session", autouse=True)
def lpips_weights_are_read_once() -> Iterator[None]:
    """Keep the LPIPS weights of the user's cache in memory, since most runs of the tests load them.

    Tests of the cache itself have cache folders of their own, which are read each time.
    """
    from vqgan_train.losses import lpips_weights
    from vqgan_train.system.files import cache_folder

    read, users = lpips_weights._read_cache, cache_folder(lpips_weights.CACHE)
    kept = cache(read)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            lpips_weights,
            "_read_cache",
            lambda network: (kept if cache_folder(lpips_weights.CACHE) == users else read)(network),
        )
        yield


@pytest.fixture(scope="module")
def runs_draw_curves() -> Iterator[None]:
    """Draw the diagrams of runs and evaluations."""
    from vqgan_train.evaluation import page
    from vqgan_train.evaluation.page.diagrams import draw_usage
    from vqgan_train.metrics.history import write_curves
    from vqgan_train.training import report

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write_curves", write_curves)
        patch.setattr(page, "draw_usage", draw_usage)
        yield


@pytest.fixture
def wandb_server(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[WandbServer]:
    """A W&B server; the environment leads this process's client to it, and away from the user's."""
    import wandb

    def stop_client() -> None:
        wandb.finish()
        wandb.teardown()  # a client that is running keeps the settings that it started with

    stop_client()
    folder = tmp_path_factory.mktemp("wandb")
    with WandbServer(api_key="0123456789" * 4) as server:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            monkeypatch.delenv(name)
        for name, value in server.variables(folder).items():
            monkeypatch.setenv(name, value)
        yield server
        stop_client()
    assert server.unknown == [], "the client asked for what the server does not know"
