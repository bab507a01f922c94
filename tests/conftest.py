import os
from collections.abc import Iterator

import pytest
import torch
from wandb_server import WandbServer

# The tests' tensors are small: a second thread costs more in waiting than it saves in work.
torch.set_num_threads(1)


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
