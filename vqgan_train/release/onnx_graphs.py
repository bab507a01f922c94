"""Export of a model as two ONNX graphs, which are run and compared before they are kept."""

from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from jinja2 import StrictUndefined, Template
from torch import Tensor, nn
from torch.export import Dim

from vqgan_train.models import VQGAN
from vqgan_train.release.atomic_export import atomic_export
from vqgan_train.release.conversion import (
    MAX_DIFFERENCE,
    Agreement,
    Conversion,
    origin_of,
    probe_images,
    read_complete_networks,
)
from vqgan_train.system.errors import ExportError

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
ENCODER, DECODER, CARD = "encoder.onnx", "decoder.onnx", "README.md"
TEMPLATE = "onnx.md"
OPSET = 18
"""Version of ONNX' operators; onnxruntime reads it from 1.14 on."""

MAX_EXTRA_DISTANCE = 1e-4
"""A token may differ from the model's if its code is nearly as near: farther from the latent vector
by at most this fraction of the vector's length. Rounding moves distances by about 1e-5."""


class Graph(nn.Module):
    """A function of a model and one tensor, as a module in evaluation mode, to be exported."""

    def __init__(self, model: VQGAN, compute: Callable[[VQGAN, Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.compute = compute
        self.eval()

    def forward(self, values: Tensor) -> Tensor:
        """Compute the result; unused weights of the model are not exported."""
        return self.compute(self.model, values)


def encode_grid(model: VQGAN, images: Tensor) -> Tensor:
    """Encode images (B, in_channels, H, W) in [-1, 1] to tokens (B, H/f, W/f) int64."""
    latents = model.latents(images)
    return model.quantizer.nearest(latents).view(latents.shape[0], *latents.shape[2:])


def decode_grid(model: VQGAN, tokens: Tensor) -> Tensor:
    """Decode tokens (B, H/f, W/f) int64 to images (B, out_channels, H, W), about [-1, 1]."""
    return model.decode(tokens.flatten(1), (tokens.shape[1], tokens.shape[2]))


def export_graphs(checkpoint: Path, folder: Path, *, averaged: bool = False) -> Conversion:
    """Write a checkpoint's encoder and decoder as ONNX graphs, with a page that describes them.

    `ONNX_PACKAGES` must be installed. Arguments and errors are those of `conversion.convert`.
    """
    with atomic_export(folder) as partial:
        networks = read_complete_networks(checkpoint, averaged=averaged)
        model = VQGAN.from_weights(networks.architecture, networks.generator, checkpoint)
        origin = origin_of(checkpoint)
        write_graphs(model, origin, partial)
        template = files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8")
        facts = {"factor": model.downsampling, "opset": OPSET, "sha256": origin["source_sha256"]}
        page = Template(template, undefined=StrictUndefined, keep_trailing_newline=True)
        card = page.render(**networks.architecture, **facts)
        (partial / CARD).write_text(card, encoding="utf-8")
        images = probe_images(model)
        wide = torch.cat([images, images[..., : model.downsampling]], dim=3)[:1]
        agreed = [compare_graphs(model, partial, views) for views in (images, wide)]
        names = sorted(file.name for file in partial.iterdir())
    return Conversion(
        files=tuple(folder / name for name in names),
        num_weights=0,
        num_parameters=0,
        codebook_size=networks.architecture["codebook_size"],
        omits_discriminator=bool(networks.discriminator),
        agreement=Agreement(
            sum(views.num_tokens for views in agreed),
            sum(views.equal_tokens for views in agreed),
            max(views.largest_difference for views in agreed),
        ),
    )


def write_graphs(model: VQGAN, origin: Mapping[str, str], folder: Path) -> None:
    """Write `encoder.onnx` and `decoder.onnx`; `origin` goes into the graphs' metadata.

    Weights of about 2 GB or more go into a file beside their graph.
    """
    f, channels = model.downsampling, model.encoder.conv_in.in_channels
    batch, rows, columns = Dim("batch"), Dim("rows"), Dim("columns")
    # An example's sizes are arbitrary, except that torch would take a size of 1 for a constant.
    images, tokens = torch.zeros(2, channels, 2 * f, 3 * f), torch.zeros(2, 2, 3, dtype=torch.int64)
    graphs: list[tuple[str, Any, str, Tensor, dict[int, Any], str]] = [
        (ENCODER, encode_grid, "images", images, {0: batch, 2: f * rows, 3: f * columns}, "tokens"),
        (DECODER, decode_grid, "tokens", tokens, {0: batch, 1: rows, 2: columns}, "images"),
    ]
    for name, compute, given, example, sizes, output in graphs:
        program = torch.onnx.export(
            Graph(model, compute),
            (example,),
            input_names=[given],
            output_names=[output],
            opset_version=OPSET,
            dynamic_shapes=(sizes,),
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        for node in program.model.graph:
            node.metadata_props.clear()  # lines of source code, with the paths of this machine
        program.model.metadata_props.update(origin)
        program.save(folder / name, external_data=False)


@torch.no_grad()
def compare_graphs(model: VQGAN, folder: Path, images: Tensor) -> Agreement:
    """Run the graphs in a folder with onnxruntime on the CPU, and compare them with their model.

    `images` are (B, in_channels, H, W) in [-1, 1]. An ExportError is raised if the results differ
    by more than rounding explains.
    """
    tokens, found = encode_grid(model, images), _run(folder / ENCODER, images)
    vectors, codes = model.latents(images).movedim(1, -1), model.quantizer.codebook.weight
    nearest, chosen = ((vectors - codes[token]).norm(dim=-1) for token in (tokens, found))
    wrong = int((chosen - nearest > MAX_EXTRA_DISTANCE * vectors.norm(dim=-1)).sum())
    decoded = _run(folder / DECODER, tokens)
    difference = float((decoded - decode_grid(model, tokens)).abs().max())
    if wrong or not difference < MAX_DIFFERENCE:  # not `>=`, which would accept NaN
        raise ExportError(
            "The ONNX graphs give other results than the checkpoint on images of "
            f"{images.shape[2]} x {images.shape[3]} pixels: {wrong} of {tokens.numel()} tokens "
            f"are wrong, and decoded images differ by up to {difference:.2g}. They were not kept. "
            "Update torch, onnxscript and onnxruntime; if that does not help, please report it."
        )
    return Agreement(tokens.numel(), int((tokens == found).sum()), difference)


def _run(graph: Path, values: Tensor) -> Tensor:
    import onnxruntime  # only installed with the extra `onnx`

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {session.get_inputs()[0].name: values.numpy()})
    return torch.from_numpy(result)
