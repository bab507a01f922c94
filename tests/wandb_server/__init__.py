"""A W&B server on loopback, for tests with the real client in online mode.

The fixture `wandb_server` starts one and leads this process's client to it:

    def test_a_run_is_resumed(wandb_server: WandbServer, tmp_path: Path) -> None:
        run_the_trainer(tmp_path, "logger=wandb", "logger.wandb.mode=online")
        (run,) = wandb_server.runs.values()
        assert run.state == "finished"
        assert [row["trainer/global_step"] for row in run.history] == [1, 2, 3]
        assert run.config["run"]["seed"] == 0
        model = wandb_server.artifacts[run.entity, run.project, "model"]
        assert "last" in model.versions[-1].aliases

The fixture also fails a test whose client asked for what the server does not know (`unknown`).
A process of its own gets `env={**os.environ, "WANDB_SERVICE": ""}`: the fixture has set the rest,
and with WANDB_SERVICE the process would share the client of the test.
"""

from wandb_server.server import WandbServer

__all__ = ["WandbServer"]
