"""Compute the memory of a training step and the largest batch that fits a GPU, without a GPU.

    python scripts/model_memory.py [--output FILE]

Runs a step of f16-16384 on torch's fake tensors, which have no data, and adds up the sizes of all
storages that exist at the same time. The peaks at two batch sizes give the memory per image, and so
the largest batch. 15 % of the GPU's memory is left free for what is not counted: the CUDA context,
workspaces of convolutions and fragmentation. Writes docs/benchmarks/step_memory.json and the table
in docs/speed.md.
"""

import json
import weakref
from typing import Any

import torch
from command_line import Parser
from pages import ROOT, machine, put, table, write_json
from steps import DECODER_ONLY, make_config
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vqgan_train.training.lightning.module import VQGANModule
from vqgan_train.training.setup.networks import build_module

PAGE = ROOT / "docs" / "speed.md"
RESULTS = ROOT / "docs" / "benchmarks" / "step_memory.json"
CARDS_GB = (24, 40, 80)
RESERVED = 0.15
"""Fraction of a GPU's memory that is left free for what is not counted."""

VARIANTS = {
    "fp32": ("trainer.precision=fp32",),
    "bf16": ("trainer.precision=bf16",),
    "bf16, recomputing": ("trainer.precision=bf16", "trainer.recompute_activations=true"),
    "bf16, decoder only": ("trainer.precision=bf16", *DECODER_ONLY),
}


class Storages(TorchDispatchMode):
    """Counts the bytes of all existing storages, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.note(result)
        return result

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


def peak_bytes(batch_size: int, side: int, model: str, *settings: str) -> int:
    """Return the peak memory of the second training step."""
    config = make_config(model, (batch_size, 3, side, side), *settings)
    dtype = torch.bfloat16 if config.trainer.precision.value == "bf16-mixed" else torch.float32
    with FakeTensorMode(), Storages() as storages, _Unchanged():
        module = build_module(config).train()
        module.discriminator_warmup_end_step = 0
        storages.note([*module.parameters(), *module.buffers()])
        adam = module.configure_optimizers()
        images = torch.rand(batch_size, 3, side, side)
        for _ in range(2):
            storages.peak = storages.alive
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                outputs = module.training_step({"image": images})
            outputs["loss"].backward()
            adam.step()
            adam.zero_grad(set_to_none=True)
    return storages.peak


class _Unchanged:
    """Disables loading of weights and changes of memory format: fake tensors support neither."""

    def __enter__(self) -> None:
        self._to, self._load = nn.Module.to, VQGANModule.load_frozen_weights
        nn.Module.to = lambda module, *_, **__: module  # type: ignore[method-assign]
        VQGANModule.load_frozen_weights = lambda module: setattr(  # type: ignore[method-assign]
            module.objective.lpips, "is_loaded", True
        )

    def __exit__(self, *_: object) -> None:
        nn.Module.to, VQGANModule.load_frozen_weights = self._to, self._load  # type: ignore[method-assign]


def measure() -> dict[str, Any]:
    """Return the memory of a step without images and the memory per image, by variant."""
    variants = {}
    for name, settings in VARIANTS.items():
        small, large = (peak_bytes(size, 256, "f16_16384", *settings) for size in (4, 8))
        image = (large - small) / 4
        variants[name] = {"fixed_gb": (small - 4 * image) / 1e9, "image_gb": image / 1e9}
        print(name, variants[name], flush=True)
    return {"machine": machine(("torch",)), "reserved": RESERVED, "variants": variants}


def largest_batch(variant: dict[str, float], card_gb: int, reserved: float) -> int:
    """Return the largest batch size that fits."""
    return max(0, int((card_gb * (1 - reserved) - variant["fixed_gb"]) / variant["image_gb"]))


def to_table(results: dict[str, Any]) -> str:
    """Format the table of docs/speed.md."""
    head = ("computed, 256 pixels", "weights, Adam, GB", "an image, GB",
            *(f"largest batch, {card} GB" for card in CARDS_GB))  # fmt: skip
    rows = [
        (
            name,
            f"{variant['fixed_gb']:.2f}",
            f"{variant['image_gb']:.2f}",
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
