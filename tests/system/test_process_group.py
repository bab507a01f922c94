"""Errors of the connection to another rank are told apart from all others."""

import socket

import pytest
import torch

from vqgan_train.system.errors import LostRankError, UserError
from vqgan_train.system.launch import ProcessRank
from vqgan_train.system.process_group import explain_lost_ranks, process_group


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (RuntimeError("[gloo/tcp/pair.cc:538] Connection closed by peer [::1]:4711"), ""),
        (RuntimeError("Socket Timeout: connection reset by the other side"), ""),
        (RuntimeError("Broken pipe"), ""),
        (torch.distributed.DistBackendError("Connection closed by peer"), ""),
        (
            torch.distributed.DistNetworkError("port: 29500, EACCES"),
            " Error here: port: 29500, EACCES",
        ),
    ],
)
def test_an_error_of_the_connection_is_that_of_a_lost_rank(error: RuntimeError, shown: str) -> None:
    with pytest.raises(LostRankError) as raised, explain_lost_ranks("Another rank has exited."):
        raise error
    assert str(raised.value) == f"Another rank has exited.{shown}"


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA out of memory"), ValueError("Broken pipe"), SystemExit(143)]
)
def test_other_errors_stay_as_they_are(error: BaseException) -> None:
    with pytest.raises(type(error)), explain_lost_ranks(""):
        raise error


def test_a_port_in_use_is_said_with_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", port)
        with (
            pytest.raises(UserError, match=rf"Port {port} .*in use.*Set MASTER_PORT") as raised,
            process_group(ProcessRank(0, 2, 0)),
        ):
            pass
    assert not isinstance(raised.value, LostRankError)
