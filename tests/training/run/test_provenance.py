"""A checkpoint names the code that made it."""

import subprocess
from pathlib import Path

import pytest

from vqgan_train.training.run.provenance import provenance

ROOT = Path(__file__).parents[3]


def test_the_revision_is_that_of_the_checkout() -> None:
    answer = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--show-toplevel", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    top, _, head = answer.stdout.strip().partition("\n")
    if top != str(ROOT.resolve()):
        pytest.skip("the tests are not in a checkout")
    made_by = provenance({}, {}, None)
    assert made_by["git_revision"].removesuffix("-dirty") == head
