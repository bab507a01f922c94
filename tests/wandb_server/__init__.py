"""A W&B server on loopback, for tests with the real client in online mode."""

from wandb_server.server import WandbServer

__all__ = ["WandbServer"]
