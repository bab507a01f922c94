"""Upload to the Hugging Face Hub, with a local server in its place."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import HubServer

from vqgan_train.release.hub import require_login, upload
from vqgan_train.system.errors import UserError

# The client's own, of its HTTP library.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

TOKEN = "hf_tests"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub that this process is signed in to."""
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no_token"))
    with HubServer(TOKEN) as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.address)
        # Weights go by way of git-lfs, then, which this server knows.
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        yield server
    assert server.unknown == [], "the client asked for what the server does not know"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A release, and beside it what is not part of it."""
    folder = tmp_path / "release"
    (folder / "training").mkdir(parents=True)
    (folder / "README.md").write_text("---\ntags:\n- a\n---\n# Card\n")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 100)
    (folder / "training" / "config.yaml").write_text("a: 1\n")
    (folder / "secret.txt").write_text("not for you")
    return folder


FILES = ("README.md", "model.safetensors", "training/config.yaml")


@pytest.mark.parametrize("private", [True, False])
def test_the_files_of_a_release_are_one_commit(hub: HubServer, folder: Path, private: bool) -> None:
    address = upload("tester/cards", folder, FILES, private=private)
    assert address == f"{hub.address}/tester/cards"
    (asked,) = hub.repositories.values()
    # Older clients say it in another way.
    assert (asked.get("visibility") == "private" or asked.get("private", False)) is private
    assert hub.files == {name: (folder / name).read_bytes() for name in FILES}
    assert hub.num_commits == 1
    assert len(hub.blobs) == 1, "weights go a way of their own"
    assert hub.cards == [(folder / "README.md").read_text()], "the hub checks the card first"


def test_without_a_token_nothing_is_begun(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match=r"push_to_hub=tester/cards needs a .*token.* HF_TOKEN"):
        require_login("tester/cards")
    assert hub.repositories == {}


def test_a_token_that_the_hub_does_not_know_is_refused(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    with pytest.raises(UserError, match=r"(?s)checking the .* token failed .*Nothing was written"):
        require_login("tester/cards")


@pytest.mark.parametrize("path", ["/api/repos/create", "/api/models/tester/cards/commit/main"])
def test_what_the_hub_refuses_is_said_with_how_to_go_on(
    hub: HubServer, folder: Path, path: str
) -> None:
    hub.refused = path
    with pytest.raises(UserError, match=rf"(?s)failed: .*403.*The release is in {folder}\."):
        upload("tester/cards", folder, FILES, private=True)
    assert hub.files == {}
