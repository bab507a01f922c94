from pathlib import Path

from tiny_runs import TINY, compose_config

from vqgan_train.training.lightning.launcher import RankStrategy
from vqgan_train.training.setup.trainer import _build_strategy


def test_ranks_keep_gradients_once_and_send_no_buffers(tmp_path: Path) -> None:
    """The tests of ranks show that neither changes a weight."""
    two = compose_config(*TINY, "trainer.devices=2", "trainer.num_nodes=1")
    strategy = _build_strategy(two, tmp_path)
    assert isinstance(strategy, RankStrategy)
    assert strategy._ddp_kwargs == {"broadcast_buffers": False, "gradient_as_bucket_view": True}
