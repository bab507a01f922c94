import hashlib
from pathlib import Path

import torch

from vqgan_train.checkpoint.load_report import weights_sha256
from vqgan_train.system.files import file_sha256


def test_a_file_is_named_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


def test_weights_are_named_by_names_shapes_and_values_alone() -> None:
    weights = {"a": torch.arange(6.0).view(2, 3), "b": torch.zeros(2)}
    name = weights_sha256(weights)
    transposed = weights["a"].T.contiguous().T  # the same numbers in another order of memory
    assert weights_sha256({"b": weights["b"], "a": transposed}) == name
    others = [
        {**weights, "b": -weights["b"]},
        {**weights, "a": weights["a"].view(3, 2)},
        {"a": weights["a"], "c": weights["b"]},
        {**weights, "b": torch.zeros(2, dtype=torch.float64)},
    ]
    assert len({name, *map(weights_sha256, others)}) == 5
