"""Operations that a training step issues, by torch.profiler on the CPU.

    python -m benchmarks.operations [--batch 4] [--side 128]

On a GPU most operations are kernel launches of a few microseconds each, and an ``item()`` on one of
its tensors waits for all of them. The counts are those of a GPU as far as the CPU can tell: bands
of attention have the size that they have there, and an operation on a list of tensors
(``_foreach``) counts once. Views and allocations, which launch nothing, do not count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import click
import torch
from torch.profiler import ProfilerActivity, profile

from corrfractal.network import kernels
from training.config import REFERENCES, TrainingConfig, configuration
from training.data.reading import Batch
from training.loop import build
from training.step import train_step

# Operations that launch no kernel: views, allocations, questions about types.
SILENT = {
    "_local_scalar_dense",
    "_nnpack_available",
    "_reshape_alias",
    "_unsafe_view",
    "alias",
    "as_strided",
    "as_strided_",
    "can_cast",
    "chunk",
    "detach",
    "detach_",
    "empty",
    "empty_like",
    "empty_strided",
    "expand",
    "expand_as",
    "flatten",
    "is_same_size",
    "item",
    "lift_fresh",
    "movedim",
    "narrow",
    "new_empty",
    "new_empty_strided",
    "numpy_T",
    "permute",
    "promote_types",
    "real",
    "reshape",
    "resize_",
    "resolve_conj",
    "resolve_neg",
    "result_type",
    "select",
    "set_",
    "slice",
    "split",
    "squeeze",
    "t",
    "to",
    "transpose",
    "unbind",
    "unflatten",
    "unfold",
    "unsqueeze",
    "view",
}
OPTIMIZER = "Optimizer.step"


@dataclass(frozen=True, kw_only=True)
class Operations:
    """What one training step issues.

    Attributes:
        by_name: number of operations that launch work, by name.
        waits: times that the host reads a value, outside the optimiser, which keeps its step
            counts on the CPU.
    """

    by_name: Counter[str]
    waits: int

    @property
    def total(self) -> int:
        """Number of all operations."""
        return sum(self.by_name.values())


def count_operations(config: TrainingConfig, batch: Batch) -> Operations:
    """Count the operations of the second step of a run, on the CPU."""
    model, _ = build(config, torch.device("cpu"), 1)
    optimizer = torch.optim.Adam(model.parameters(), foreach=True)
    train_step(model, optimizer, batch, 0, 10, config)

    budget = kernels.BAND_BYTES
    kernels.BAND_BYTES = kernels.GPU_BAND_BYTES
    try:
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            train_step(model, optimizer, batch, 1, 10, config)
    finally:
        kernels.BAND_BYTES = budget

    by_name: Counter[str] = Counter()
    waits = 0
    for event, in_optimizer in _leaves(profiler.events()):
        name = event.name.removeprefix("aten::")
        if name == "_local_scalar_dense" and not in_optimizer:
            waits += 1
        if name not in SILENT:
            by_name[name] += 1
    return Operations(by_name=by_name, waits=waits)


def _leaves(events: Any) -> Iterator[tuple[Any, bool]]:
    """Operations that call no other one, and whether each is of the optimiser."""

    def visit(event: Any, in_optimizer: bool) -> Iterator[tuple[Any, bool]]:
        in_optimizer = in_optimizer or event.name.startswith(OPTIMIZER)
        is_operation = event.name.startswith("aten::")
        children = [] if event.name.startswith("aten::_foreach") else event.cpu_children
        # A wait is the last of a chain that includes `item`, whose own result is a leaf.
        below = [child for child in children if _has_operation(child)]
        if is_operation and not below:
            yield event, in_optimizer
        for child in below:
            yield from visit(child, in_optimizer)

    for event in events:
        if event.cpu_parent is None:
            yield from visit(event, False)


def _has_operation(event: Any) -> bool:
    return event.name.startswith("aten::") or any(map(_has_operation, event.cpu_children))


def noise(config: TrainingConfig, batch: int, side: int, device: str = "cpu") -> Batch:
    """A batch of random pixels and labels."""
    shape = (batch, len(REFERENCES[config.references]) + 1)
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (*shape, 3, side, side), generator=generator)
    labels = torch.randint(0, 16, (*shape, side, side), generator=generator)
    keep = torch.ones(batch, 3)
    cpu = Batch(frames.to(torch.uint8), labels.to(torch.uint8), keep, ("",) * batch)
    return cpu.to(torch.device(device))


@click.command()
@click.option("--batch", default=4, show_default=True, help="Samples of the step.")
@click.option("--side", default=128, show_default=True, help="Height and width of the frames.")
@click.option("--top", default=12, show_default=True, help="Most frequent operations to print.")
def main(batch: int, side: int, top: int) -> None:
    """Count the operations of a training step of each preset."""
    torch.set_num_threads(1)
    for preset in ("base", "full"):
        config = configuration(preset)
        config = replace(config, network=replace(config.network, width=4), batch_size=batch)
        found = count_operations(config, noise(config, batch, side))
        print(f"{preset}: {found.total} operations, {found.waits} waits for a value")
        frequent = [f"{name} {count}" for name, count in found.by_name.most_common(top)]
        print("  " + ", ".join(frequent))


if __name__ == "__main__":
    main()
