"""A VQGAN in Flax (linen), as vqgan-jax reads its files: what an exported msgpack is proved with.

    python flax_vqgan.py EXPORT GIVEN.npz MADE.npz

encodes `images` (B, H, W, C) and decodes `tokens` (B, N) of `height` rows. Written from the
architecture's description. Modules have the names of the file's nested dicts.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import serialization

Array = jax.Array


def shapes(tree: Any) -> Any:
    """The shapes in nested dicts of arrays."""
    return jax.tree_util.tree_map(lambda array: tuple(array.shape), tree)


def norm(name: str) -> nn.GroupNorm:
    return nn.GroupNorm(num_groups=32, epsilon=1e-6, name=name)


def conv(channels: int, side: int, name: str) -> nn.Conv:
    return nn.Conv(channels, (side, side), padding=side // 2, name=name)


class Residual(nn.Module):
    channels: int

    @nn.compact
    def __call__(self, features: Array) -> Array:
        hidden = conv(self.channels, 3, "conv1")(nn.swish(norm("norm1")(features)))
        hidden = conv(self.channels, 3, "conv2")(nn.swish(norm("norm2")(hidden)))
        if features.shape[-1] != self.channels:
            features = conv(self.channels, 1, "nin_shortcut")(features)
        return features + hidden


class Attention(nn.Module):
    @nn.compact
    def __call__(self, features: Array) -> Array:
        batch, height, width, channels = features.shape
        normed = norm("norm")(features)
        query, key, value = (
            conv(channels, 1, name)(normed).reshape(batch, height * width, channels)
            for name in ("q", "k", "v")
        )
        scores = jnp.einsum("bic,bjc->bij", query, key) / jnp.sqrt(channels)
        attended = jnp.einsum("bij,bjc->bic", jax.nn.softmax(scores, axis=-1), value)
        return features + conv(channels, 1, "proj_out")(attended.reshape(features.shape))


class Downsample(nn.Module):
    with_conv: bool

    @nn.compact
    def __call__(self, features: Array) -> Array:
        if not self.with_conv:
            return nn.avg_pool(features, (2, 2), (2, 2))
        padded = jnp.pad(features, ((0, 0), (0, 1), (0, 1), (0, 0)))
        channels = features.shape[-1]
        return nn.Conv(channels, (3, 3), strides=(2, 2), padding="VALID", name="conv")(padded)


class Upsample(nn.Module):
    with_conv: bool

    @nn.compact
    def __call__(self, features: Array) -> Array:
        enlarged = features.repeat(2, axis=1).repeat(2, axis=2)
        return conv(features.shape[-1], 3, "conv")(enlarged) if self.with_conv else enlarged


class Level(nn.Module):
    channels: int
    num_blocks: int
    with_attention: bool
    downsample: bool
    upsample: bool
    with_conv: bool

    @nn.compact
    def __call__(self, features: Array) -> Array:
        for index in range(self.num_blocks):
            features = Residual(self.channels, name=f"block_{index}")(features)
            if self.with_attention:
                features = Attention(name=f"attn_{index}")(features)
        if self.downsample:
            features = Downsample(self.with_conv, name="downsample")(features)
        if self.upsample:
            features = Upsample(self.with_conv, name="upsample")(features)
        return features


class Middle(nn.Module):
    @nn.compact
    def __call__(self, features: Array) -> Array:
        channels = features.shape[-1]
        features = Residual(channels, name="block_1")(features)
        features = Attention(name="attn_1")(features)
        return Residual(channels, name="block_2")(features)


def level(config: Mapping[str, Any], index: int, *, down: bool) -> Level:
    side = config["resolution"] // 2**index
    return Level(
        channels=config["ch"] * config["ch_mult"][index],
        num_blocks=config["num_res_blocks"] + (0 if down else 1),
        with_attention=side in config["attn_resolutions"],
        downsample=down and index < config["num_resolutions"] - 1,
        upsample=not down and index > 0,
        with_conv=config["resamp_with_conv"],
        name=f"{'down' if down else 'up'}_{index}",
    )


class Encoder(nn.Module):
    config: Any

    @nn.compact
    def __call__(self, images: Array) -> Array:
        features = conv(self.config["ch"], 3, "conv_in")(images)
        for index in range(self.config["num_resolutions"]):
            features = level(self.config, index, down=True)(features)
        features = Middle(name="mid")(features)
        features = nn.swish(norm("norm_out")(features))
        return conv(self.config["z_channels"], 3, "conv_out")(features)


class Decoder(nn.Module):
    config: Any

    @nn.compact
    def __call__(self, latents: Array) -> Array:
        widest = self.config["ch"] * self.config["ch_mult"][-1]
        features = Middle(name="mid")(conv(widest, 3, "conv_in")(latents))
        for index in reversed(range(self.config["num_resolutions"])):
            features = level(self.config, index, down=False)(features)
        features = nn.swish(norm("norm_out")(features))
        return conv(self.config["out_ch"], 3, "conv_out")(features)


class Quantizer(nn.Module):
    config: Any

    def setup(self) -> None:
        self.embedding = nn.Embed(self.config["n_embed"], self.config["embed_dim"])

    def nearest(self, latents: Array) -> Array:
        codes = self.embedding.embedding
        vectors = latents.reshape(-1, codes.shape[1])
        distances = (codes**2).sum(axis=1) - 2 * vectors @ codes.T
        return distances.argmin(axis=1).reshape(len(latents), -1)

    def lookup(self, tokens: Array) -> Array:
        return self.embedding(tokens)


class FlaxVQGAN(nn.Module):
    """Encoder, codebook and decoder.

    Args:
        config: the content of an exported config.json.
    """

    config: Any

    def setup(self) -> None:
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)
        self.quantize = Quantizer(self.config)
        self.quant_conv = nn.Conv(self.config["embed_dim"], (1, 1))
        self.post_quant_conv = nn.Conv(self.config["z_channels"], (1, 1))

    def __call__(self, images: Array) -> Array:
        grid = images.shape[1] // 2 ** (self.config["num_resolutions"] - 1)
        return self.decode(self.encode(images), grid)

    def expected(self, images: Any) -> Any:
        """What parameters this model has, without values."""
        key = jax.random.PRNGKey(0)
        return jax.eval_shape(lambda: self.init(key, jnp.asarray(images)))["params"]

    def encode(self, images: Array) -> Array:
        """Tokens (B, N) of images (B, H, W, C)."""
        return self.quantize.nearest(self.quant_conv(self.encoder(images)))

    def decode(self, tokens: Array, height: int) -> Array:
        """Images (B, H, W, C) of tokens (B, N)."""
        codes = self.quantize.lookup(tokens)
        latents = codes.reshape(len(codes), height, -1, codes.shape[-1])
        return self.decoder(self.post_quant_conv(latents))


def run(export: Path, given: Path, made: Path) -> None:
    """Encode and decode what is given with the exported model."""
    config = json.loads((export / "config.json").read_text())
    params = serialization.msgpack_restore((export / "flax_model.msgpack").read_bytes())
    model = FlaxVQGAN(config)
    with np.load(given) as arrays:
        images, tokens, height = arrays["images"], arrays["tokens"], int(arrays["height"])
    assert shapes(params) == shapes(model.expected(images)), "not the model of the config"
    encode = jax.jit(lambda weights, x: model.apply({"params": weights}, x, method="encode"))
    decode = jax.jit(
        lambda weights, t: model.apply({"params": weights}, t, height, method="decode")
    )
    np.savez(made, tokens=encode(params, images), images=decode(params, tokens))


if __name__ == "__main__":
    run(*map(Path, sys.argv[1:]))
