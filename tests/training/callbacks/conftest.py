"""Set-up of the callbacks' tests: runs without the convolutions of VGG16."""

from collections.abc import Iterator

import pytest
from torch import Tensor

from vqgan_train.losses.perceptual import LPIPS


@pytest.fixture(scope="module")
def quick_lpips() -> Iterator[None]:
    """Replace LPIPS by the mean squared difference: callbacks see losses, not what they measure."""

    def squared_difference(_: LPIPS, reference: Tensor, image: Tensor) -> Tensor:
        return (reference.float() - image.float()).square().mean(dim=(1, 2, 3))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LPIPS, "forward", squared_difference)
        yield
