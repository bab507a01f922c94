"""The test server of W&B, used by the real client."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
from pytorch_lightning.loggers import WandbLogger
from wandb_server import WandbServer
from wandb_server.graphql import Parser, UnknownError, execute, node

RUN = ("tester", "project", "run")


def start(id: str = "run", **settings: Any) -> wandb.Run:
    return wandb.init(project="project", id=id, resume="allow", mode="online", **settings)


def run_python(source: str, **variables: str) -> str:
    """Run Python code in a new process, whose environment has the server's address."""
    finished = subprocess.run(
        [sys.executable, "-c", source],
        env={**os.environ, "WANDB_SERVICE": "", **variables},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_a_run_arrives_whole(wandb_server: WandbServer) -> None:
    run = start(config={"rate": 0.5, "model": {"width": 8}}, name="first try", tags=["a"])
    for step in range(3):
        run.log({"loss": 1 / (step + 1), "trainer/global_step": 10 * step})
    run.finish()
    kept = wandb_server.runs[RUN]
    assert [row["loss"] for row in kept.history] == [1, 1 / 2, 1 / 3]
    assert [row["_step"] for row in kept.history] == [0, 1, 2]
    assert kept.config == {"rate": 0.5, "model": {"width": 8}}
    assert kept.summary["loss"] == 1 / 3
    assert (kept.name, kept.told["tags"]) == ("first try", ["a"])
    assert (kept.state, kept.exit_code) == ("finished", 0)
    assert "config.yaml" in kept.files


def test_a_run_that_fails_is_kept_as_failed(wandb_server: WandbServer) -> None:
    start().finish(exit_code=3)
    assert (wandb_server.runs[RUN].state, wandb_server.runs[RUN].exit_code) == ("failed", 3)


def test_a_second_process_goes_on_with_the_run(wandb_server: WandbServer) -> None:
    run = start(config={"rate": 0.5})
    run.log({"loss": 1.0, "trainer/global_step": 10})
    run.log({"loss": 0.5, "trainer/global_step": 20})
    run.finish()
    said = run_python(
        "import wandb\n"
        "run = wandb.init(project='project', id='run', resume='allow')\n"
        "print(run.resumed, run.starting_step, run.config['rate'])\n"
        "print(run.summary['trainer/global_step'], run.summary['loss'])\n"
        "run.log({'loss': 0.25, 'trainer/global_step': 30})\n"
    )
    assert said == "True 2 0.5\n20 0.5\n"
    kept = wandb_server.runs[RUN]
    rows = [(row["_step"], row["trainer/global_step"], row["loss"]) for row in kept.history]
    assert rows == [(0, 10, 1.0), (1, 20, 0.5), (2, 30, 0.25)]
    assert kept.summary["trainer/global_step"] == 30
    assert kept.config == {"rate": 0.5}
    assert kept.state == "finished"


def test_a_run_that_is_killed_goes_on_from_what_arrived(wandb_server: WandbServer) -> None:
    source = (
        "import time, wandb\n"
        "run = wandb.init(project='project', id='run', resume='allow')\n"
        "for step in range(5): run.log({'loss': step})\n"
        "time.sleep(60)\n"
    )
    environment = {**os.environ, "WANDB_SERVICE": ""}
    with subprocess.Popen([sys.executable, "-c", source], env=environment) as process:
        started = time.monotonic()
        while RUN not in wandb_server.runs or len(wandb_server.runs[RUN].history) < 5:
            assert time.monotonic() - started < 240
            time.sleep(0.05)
        process.kill()
    kept = wandb_server.runs[RUN]
    assert kept.state == "running"
    run = start()
    assert (run.resumed, run.starting_step, run.summary["loss"]) == (True, 5, 4)
    run.log({"loss": 9})
    run.finish()
    assert [(row["_step"], row["loss"]) for row in kept.history][-2:] == [(4, 4), (5, 9)]
    assert kept.state == "finished"


def test_lightnings_logger_goes_on_with_the_run(wandb_server: WandbServer, tmp_path: Path) -> None:
    for step in (10, 20):
        logger = WandbLogger(id="run", resume="allow", project="project", save_dir=tmp_path)
        assert logger.experiment.resumed == (step == 20)
        assert logger.experiment.summary.get("trainer/global_step") == (10 if step == 20 else None)
        logger.log_hyperparams({"rate": 0.5})
        logger.log_metrics({"loss": 1 / step}, step)
        logger.finalize("success")
        wandb.finish()
    kept = wandb_server.runs[RUN]
    rows = [(row["_step"], row["trainer/global_step"], row["loss"]) for row in kept.history]
    assert rows == [(0, 10, 0.1), (1, 20, 0.05)]
    assert kept.config == {"rate": 0.5}


def test_a_picture_arrives(wandb_server: WandbServer) -> None:
    run = start()
    run.log({"picture": wandb.Image(np.zeros((4, 6, 3), np.uint8))})
    run.finish()
    kept = wandb_server.runs[RUN]
    (row,) = kept.history
    assert (row["picture"]["_type"], row["picture"]["width"]) == ("image-file", 6)
    assert kept.files[row["picture"]["path"]].startswith(b"\x89PNG")


def test_a_run_of_somebody_elses_is_denied(wandb_server: WandbServer) -> None:
    with pytest.raises(wandb.CommError, match="permission denied"):
        start(entity="somebody-else")
    assert wandb_server.runs == {}


def test_what_is_not_there_and_a_wrong_key_give_the_clients_errors(
    wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(wandb.CommError, match="model:last' not found in 'tester/project'"):
        wandb.Api().artifact("tester/project/model:last")
    wandb.teardown()
    monkeypatch.setenv("WANDB_API_KEY", "f" * 40)
    with pytest.raises(wandb.errors.AuthenticationError):
        wandb.login(verify=True)
    with pytest.raises(wandb.CommError, match=r"returned error 401.*user is not logged in"):
        start()
    assert wandb_server.runs == {}
    assert set(wandb_server.requests[-2:]) == {("POST", "/graphql")}


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_nothing_is_asked_in_other_modes(wandb_server: WandbServer, mode: str) -> None:
    run = wandb.init(project="project", id="run", resume="allow", mode=mode)
    run.log({"loss": 1.0, "picture": wandb.Image(np.zeros((4, 4, 3), np.uint8))})
    run.finish()
    assert wandb_server.requests == []


def test_nothing_is_written_into_the_users_home(wandb_server: WandbServer, tmp_path: Path) -> None:
    run_python(
        "import wandb\n"
        "run = wandb.init(project='project', id='run', resume='allow')\n"
        "artifact = wandb.Artifact('model', type='model')\n"
        "with artifact.new_file('last.ckpt') as file: file.write('weights')\n"
        "run.log_artifact(artifact).wait()\n"
        "wandb.Api().artifact('project/model:latest').download()\n",
        HOME=str(tmp_path),
    )
    assert list(tmp_path.iterdir()) == []
    assert wandb_server.runs[RUN].state == "finished"


def test_a_client_that_asks_for_the_unknown_is_told_and_recorded(
    wandb_server: WandbServer,
) -> None:
    answer = wandb_server.graphql("query Of($x: Int) { viewer { name wishes(n: $x) } }", {"x": 1})
    assert answer == {"errors": [{"message": "unknown here: User.wishes"}]}
    with pytest.raises(wandb.CommError):
        wandb.Api().sweep("tester/project/sweep")
    assert wandb_server.unknown[0] == "query Of: User.wishes"
    assert "Project.sweep" in wandb_server.unknown[1]
    wandb_server.unknown.clear()


def test_graphql_reads_aliases_fragments_and_conditions() -> None:
    query = """#graphql
    query Of($id: ID!, $full: Boolean = false, $absent: Int) {
      first: thing(id: $id, size: $absent) { ...Names deep @include(if: $full) { a } }
      second: thing(id: "x,#y") { __typename ... on Thing { deep { b } deep { a } } }
    }
    fragment Names on Thing { called: name list { a } ... on Other { name } }
    """

    def thing(id: str, size: int = 7) -> dict[str, Any]:
        letters = node("Letters", a=1, b=2)
        return node("Thing", name=f"{id}{size}", deep=letters, list=[letters, letters])

    document = Parser(query)
    assert execute(document, node("Query", thing=thing), {"id": "i"}) == {
        "first": {"called": "i7", "list": [{"a": 1}, {"a": 1}]},
        "second": {"__typename": "Thing", "deep": {"b": 2, "a": 1}},
    }
    with pytest.raises(UnknownError, match=r"Query.thing: got an unexpected keyword argument 'id'"):
        execute(document, node("Query", thing=lambda size=0: None), {"id": "i"})
