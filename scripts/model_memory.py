"""Compute memory and memory traffic of a training step on a GPU, without a GPU.

    python scripts/model_memory.py [--output FILE]

Runs a step of f16-16384 on torch's fake tensors, which have no data, with the operations that a GPU
would run. Memory is the size of all storages that exist at the same time; traffic is the bytes that
each operation reads and writes, views excepted. Two batch sizes give both per image, and so the
largest batch. DDP's buckets, a second copy of the gradients, are added. 15 % of the GPU's memory is
left free for what is not counted: the CUDA context, workspaces of convolutions and fragmentation.
Torch cannot backpropagate fake tensors of a GPU where there is none, so these are the CPU's;
tests/models/test_precisions.py shows that all blocks have the same dtypes on both.
Writes docs/benchmarks/step_memory.json and the table in docs/speed.md.
"""

import json
import sys
import weakref
from typing import Any, NamedTuple

import torch
from command_line import Parser
from pages import ROOT, machine, put, table, write_json
from steps import DECODER_ONLY, make_config
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vqgan_train.models.layers import Norm
from vqgan_train.training.lightning.module import VQGANModule
from vqgan_train.training.setup.networks import build_module

sys.path.insert(0, str(ROOT / "tests"))
from fake_networks import to_fake

PAGE = ROOT / "docs" / "speed.md"
RESULTS = ROOT / "docs" / "benchmarks" / "step_memory.json"
CARDS_GB = (24, 40, 80, 141)
RESERVED = 0.15
"""Fraction of a GPU's memory that is left free for what is not counted."""

VARIANTS = {
    "fp32": ("trainer.precision=fp32",),
    "bf16": ("trainer.precision=bf16",),
    "bf16, recomputing": ("trainer.precision=bf16", "trainer.recompute_activations=true"),
    "bf16, decoder only": ("trainer.precision=bf16", *DECODER_ONLY),
}


PASSES_OVER_FEATURES = {
    "vqgan_train::group_norm_silu": ("x",),
    "vqgan_train::group_norm_silu_backward": ("gradient", "x"),
}
"""Arguments that our own kernels read twice."""


class Step(NamedTuple):
    """Bytes of a training step."""

    peak: int
    traffic: int
    gradients: int


class Storages(TorchDispatchMode):
    """Counts the bytes of all existing storages, their peak, and what operations read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = self.traffic = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.note(result)
        self._count(func._schema, args, kwargs, result)
        return result

    def _count(self, schema: Any, args: Any, kwargs: Any, result: Any) -> None:
        inputs, outputs = _tensors((args, kwargs)), _tensors(result)
        storages = {id(tensor.untyped_storage()) for tensor in inputs}
        is_view = len(outputs) == 1 and id(outputs[0].untyped_storage()) in storages
        if outputs and (not is_view or schema.name.endswith("_")):
            again = PASSES_OVER_FEATURES.get(schema.name, ())
            named = dict(zip((argument.name for argument in schema.arguments), args, strict=False))
            moved = [*inputs, *outputs, *(named[name] for name in again)]
            self.traffic += sum(tensor.numel() * tensor.element_size() for tensor in moved)

    def note(self, tensors: Any) -> None:
        """Add the new storages of tensors, which may be in any container."""
        for tensor in tree_leaves(tensors):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if id(storage) not in self._known:
                    self._known.add(id(storage))
                    self.alive += storage.nbytes()
                    self.peak = max(self.peak, self.alive)
                    weakref.finalize(storage, self._forget, id(storage), storage.nbytes())

    def _forget(self, name: int, size: int) -> None:
        self._known.discard(name)
        self.alive -= size


def _tensors(values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def count_step(batch_size: int, side: int, model: str, *settings: str) -> Step:
    """Count the bytes of the second training step."""
    config = make_config(model, (batch_size, 3, side, side), *settings)
    is_bf16 = config.trainer.precision.value == "bf16-mixed"
    with _AsOnGpu(), torch.device("meta"):
        module = build_module(config).train()
    module.discriminator_warmup_end_step = 0
    with FakeTensorMode(), Storages() as storages, _AsOnGpu():
        to_fake(module, "cpu")
        storages.note([*module.parameters(), *module.buffers()])
        adam = module.configure_optimizers()
        images = torch.empty(batch_size, 3, side, side).to(memory_format=torch.channels_last)
        for _ in range(2):
            storages.peak, storages.traffic = storages.alive, 0
            with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
                outputs = module.training_step({"image": images})
            outputs["loss"].backward()
            adam.step()
            adam.zero_grad(set_to_none=True)
        trained = [weight for weight in module.parameters() if weight.requires_grad]
    gradients = sum(weight.untyped_storage().nbytes() for weight in trained)
    return Step(storages.peak, storages.traffic, gradients)


class _AsOnGpu:
    """Lets all norms take the kernels of GPUs, and no weights be loaded."""

    def __enter__(self) -> None:
        self._forward, self._load = Norm.forward, VQGANModule.load_frozen_weights
        Norm.forward = Norm.fused  # type: ignore[method-assign]
        VQGANModule.load_frozen_weights = lambda module: setattr(  # type: ignore[method-assign]
            module.objective.lpips, "is_loaded", True
        )

    def __exit__(self, *_: object) -> None:
        Norm.forward, VQGANModule.load_frozen_weights = self._forward, self._load  # type: ignore[method-assign]


def measure() -> dict[str, Any]:
    """Return memory without images, and memory and traffic per image, by variant."""
    variants = {}
    for name, settings in VARIANTS.items():
        small, large = (count_step(size, 256, "f16_16384", *settings) for size in (4, 8))
        image = (large.peak - small.peak) / 4
        variants[name] = {
            "fixed_gb": (small.peak - 4 * image + small.gradients) / 1e9,
            "image_gb": image / 1e9,
            "traffic_gb": (large.traffic - small.traffic) / 4e9,
        }
        print(name, variants[name], flush=True)
    return {"machine": machine(("torch",)), "reserved": RESERVED, "variants": variants}


def largest_batch(variant: dict[str, float], card_gb: int, reserved: float) -> int:
    """Return the largest batch size that fits."""
    return max(0, int((card_gb * (1 - reserved) - variant["fixed_gb"]) / variant["image_gb"]))


def to_table(results: dict[str, Any]) -> str:
    """Format the table of docs/speed.md."""
    head = ("computed, 256 pixels", "weights, Adam, DDP, GB", "an image, GB",
            "traffic an image, GB",
            *(f"largest batch, {card} GB" for card in CARDS_GB))  # fmt: skip
    rows = [
        (
            name,
            f"{variant['fixed_gb']:.2f}",
            f"{variant['image_gb']:.2f}",
            f"{variant['traffic_gb']:.1f}",
            *(largest_batch(variant, card, results["reserved"]) for card in CARDS_GB),
        )
        for name, variant in results["variants"].items()
    ]
    return table(head, rows)


def main() -> None:
    """Compute and write the results."""
    parser = Parser(__doc__)
    parser.add_output("docs/benchmarks/step_memory.json", "docs/speed.md")
    arguments = parser.parse_args()
    results = measure()
    write_json(arguments.output or RESULTS, results)
    if arguments.output is None:
        put(PAGE, "step memory", to_table(results))
    print(json.dumps(results["variants"], indent=1))


if __name__ == "__main__":
    main()
