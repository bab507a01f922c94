import pytest
import torch

from vqgan_train.system.devices import PRECISIONS, arithmetic, choose_device
from vqgan_train.system.errors import UserError


def test_processes_of_a_machine_spread_over_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    for accelerator in ("auto", "gpu"):
        chosen = [choose_device(accelerator, rank) for rank in range(3)]
        assert chosen == [torch.device("cuda", index) for index in (0, 1, 0)]
        assert current == chosen  # so that a process holds memory of its own device only
        current.clear()
    assert choose_device("cpu", 1) == torch.device("cpu")
    assert current == []


def test_what_is_not_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto", 0) == torch.device("cpu")
    for accelerator in ("gpu", "mps"):
        with pytest.raises(UserError, match=f"accelerator={accelerator}, but"):
            choose_device(accelerator, 0)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_only_tf32_lets_a_gpu_shorten_float32(precision: str) -> None:
    before = torch.backends.cudnn.allow_tf32
    with arithmetic(precision, torch.device("cpu")):
        assert torch.backends.cudnn.allow_tf32 == (precision == "tf32")
        made = torch.ones(2, 2) @ torch.ones(2, 2)
    assert made.dtype == (PRECISIONS[precision] or torch.float32)
    assert torch.backends.cudnn.allow_tf32 == before
