"""PatchGAN discriminator: one logit per overlapping patch (Isola et al. 2017, pix2pix)."""

from torch import Tensor, nn

MAX_WIDTH_MULTIPLIER = 8


class PatchDiscriminator(nn.Module):
    """Images (B, in_channels, H, W) in [-1, 1] -> logits (B, 1, H', W'), high for real patches.

    Args:
        in_channels: channels of the image.
        channels: width after the first convolution; each layer doubles it, up to 8 * channels.
        num_layers: convolutions between the first and the last one; all but the last of them are
            strided. The f16-16384 checkpoint has 2, taming's default is 3.
    """

    def __init__(self, *, in_channels: int, channels: int, num_layers: int) -> None:
        super().__init__()
        widths = [channels * min(2**i, MAX_WIDTH_MULTIPLIER) for i in range(num_layers + 1)]
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, channels, kernel_size=4, stride=2, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
        ]
        for index in range(1, num_layers + 1):
            layers += [
                nn.Conv2d(
                    widths[index - 1],
                    widths[index],
                    kernel_size=4,
                    stride=2 if index < num_layers else 1,
                    padding=1,
                    bias=False,  # BatchNorm adds one
                ),
                nn.BatchNorm2d(widths[index]),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        layers.append(nn.Conv2d(widths[-1], 1, kernel_size=4, stride=1, padding=1))
        self.layers = nn.Sequential(*layers)
        self.apply(initialise_like_pix2pix)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


def initialise_like_pix2pix(layer: nn.Module) -> None:
    """Draw weights as pix2pix: standard deviation 0.02, mean 0 in convolutions, 1 in BatchNorm."""
    if isinstance(layer, nn.Conv2d):
        nn.init.normal_(layer.weight, 0.0, 0.02)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, 0.02)
        nn.init.zeros_(layer.bias)
