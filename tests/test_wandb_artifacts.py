"""Artifacts of the real W&B client at the test server."""

from pathlib import Path

import pytest
import wandb
from wandb_server import WandbServer

RUN = ("tester", "project", "run")
MODEL = ("tester", "project", "model")


def start(id: str = "run") -> wandb.Run:
    return wandb.init(project="project", id=id, mode="online")


def log_model(run: wandb.Run, folder: Path, content: bytes, *aliases: str) -> wandb.Artifact:
    """Log a model of one file, and wait until the server has it."""
    file = folder / "last.ckpt"
    file.write_bytes(content)
    artifact = wandb.Artifact("model", type="model", metadata={"size": len(content)})
    artifact.add_file(str(file))
    return run.log_artifact(artifact, aliases=list(aliases)).wait(timeout=30)


def test_versions_of_an_artifact_keep_their_content_and_pass_on_their_aliases(
    wandb_server: WandbServer, tmp_path: Path
) -> None:
    run = start()
    log_model(run, tmp_path, b"first", "last", "step-100")
    second = log_model(run, tmp_path, b"second", "last", "step-200")
    run.finish()
    assert second.version == "v1"
    model = wandb_server.artifacts[MODEL]
    kept = [(sorted(v.aliases), v.files, v.metadata) for v in model.versions]
    assert kept == [
        (["step-100"], {"last.ckpt": b"first"}, {"size": 5}),
        (["last", "latest", "step-200"], {"last.ckpt": b"second"}, {"size": 6}),
    ]
    assert wandb_server.runs[RUN].outputs == model.versions
    assert {version.logged_by for version in model.versions} == {wandb_server.runs[RUN]}


def test_the_same_content_again_is_the_same_version_with_new_aliases(
    wandb_server: WandbServer, tmp_path: Path
) -> None:
    run = start()
    log_model(run, tmp_path, b"first", "step-100")
    log_model(run, tmp_path, b"first", "step-200")
    run.finish()
    (version,) = wandb_server.artifacts[MODEL].versions
    assert sorted(version.aliases) == ["latest", "step-100", "step-200"]


def test_an_artifact_that_arrives_damaged_is_refused(
    wandb_server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = wandb_server.answer

    def damage(method: str, path: list[str], body: bytes) -> bytes:
        return answer(method, path, body[:-1] if path[0] == "artifact-files" else body)

    monkeypatch.setattr(wandb_server, "answer", damage)
    run = start()
    with pytest.raises(ValueError, match=r"model:v0: last.ckpt did not arrive as the manifest"):
        log_model(run, tmp_path, b"weights", "last")
    run.finish()
    assert wandb_server.artifacts[MODEL].version("last") is None


def test_an_artifact_that_is_used_is_an_input_of_the_run(
    wandb_server: WandbServer, tmp_path: Path
) -> None:
    run = start()
    log_model(run, tmp_path, b"weights", "last")
    run.finish()
    run = start("reader")
    artifact = run.use_artifact("tester/project/model:last")
    folder = Path(artifact.download(str(tmp_path / "down"), skip_cache=True))
    run.finish()
    assert (folder / "last.ckpt").read_bytes() == b"weights"
    assert any("/artifact-files/" in path for verb, path in wandb_server.requests if verb == "GET")
    (version,) = wandb_server.artifacts[MODEL].versions
    reader = wandb_server.runs["tester", "project", "reader"]
    assert (reader.inputs, version.used_by) == ([version], [reader])
    assert [user.id for user in artifact.used_by()] == ["reader"]
    assert artifact.logged_by().id == "run"


def test_the_public_api_downloads_and_verifies(wandb_server: WandbServer, tmp_path: Path) -> None:
    run = start()
    log_model(run, tmp_path, b"weights", "last")
    run.finish()
    artifact = wandb.Api().artifact("tester/project/model:last")
    folder = artifact.download(str(tmp_path / "whole"), skip_cache=True)
    assert (Path(folder) / "last.ckpt").read_bytes() == b"weights"
    artifact.verify(folder)
    # wandb 0.31 does not compare checksums in a download: its caller has to verify the files.
    wandb_server.artifacts[MODEL].versions[0].files["last.ckpt"] = b"heights"
    folder = artifact.download(str(tmp_path / "damaged"), skip_cache=True)
    with pytest.raises(ValueError, match=r"Digest mismatch for file: last.ckpt"):
        artifact.verify(folder)


def test_old_versions_can_be_listed_and_deleted(wandb_server: WandbServer, tmp_path: Path) -> None:
    run = start()
    for content in (b"first", b"second", b"third"):
        log_model(run, tmp_path, content, "last")
    run.finish()
    versions = list(wandb.Api().artifacts("model", "tester/project/model"))
    assert [version.name for version in versions] == ["model:v2", "model:v1", "model:v0"]
    for version in versions:
        if not version.aliases:
            version.delete()
    assert [version.index for version in wandb_server.artifacts[MODEL].versions] == [2]
    with pytest.raises(wandb.CommError, match="still has the aliases"):
        versions[0].delete()
    versions[0].delete(delete_aliases=True)
    assert wandb_server.artifacts[MODEL].versions == []
