"""Costs of checkpoints and recomputation in the training loop.

    python benchmarks/loop.py [--size 256] [--batch 1] [--world] [--compile]

- how long a checkpoint stops the loop: written synchronously, or copied for a thread that writes it
  (wall time, minimum of 5, because other load only adds time);
- activation recomputation (gradient checkpointing): one step of the `full` preset with activations
  kept and recomputed, each in a process of its own;
- with ``--world``: samples per second of two gloo processes on two cores, and of one process on
  one;
- with ``--compile``: steps of the `base` preset with and without a compiled backbone, and the wall
  time of the first step, which compiles.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
import torch.distributed as dist
from measure import peak_and_seconds, print_table
from torch.multiprocessing.spawn import start_processes

from training.config import REFERENCES, TrainingConfig, configuration
from training.data.reading import Batch
from training.loop import build
from training.meter import activation_bytes_per_sample
from training.state.checkpoint import Checkpoint, CheckpointWriter, save_checkpoint
from training.step import train_step


@click.command()
@click.option("--size", default=256, show_default=True)
@click.option("--batch", default=1, show_default=True)
@click.option("--width", default=64, show_default=True)
@click.option("--world", is_flag=True, help="Also measure the scaling from one worker to two.")
@click.option("--compile", "compiled", is_flag=True, help="Also measure torch.compile.")
def main(size: int, batch: int, width: int, world: bool, compiled: bool) -> None:
    print_table("checkpoint: seconds that one stops the loop", [stall("cpu"), stall("gpu")])
    rows = []
    for recompute in (False, True):
        peak, seconds = peak_and_seconds(prepare_step, width, size, batch, recompute)
        estimate = batch * activation_bytes_per_sample(settings(width, recompute), size) / 1e6
        rows.append(
            {
                "activations": "recomputed" if recompute else "kept",
                "s": seconds,
                "peak MB": peak,
                "estimate of the dry run": estimate,
            }
        )
    print_table(
        f"recompute: full preset of width {width}, one step, {batch} x {size} x {size}", rows
    )
    if world:
        one = samples_per_second(1)
        two = samples_per_second(2)
        rows = [
            {"workers": 1, "samples/s": one, "x one": 1.0},
            {"workers": 2, "samples/s": two, "x one": two / one},
        ]
        print_table("scaling: two gloo processes on two cores beside one on one", rows)
    if compiled:
        rows = [steps(width, size, batch, kind) for kind in (False, True)]
        print_table(f"compile: base preset of width {width}, {batch} x {size} x {size}", rows)


def stall(profile: str) -> dict[str, Any]:
    """Seconds that a checkpoint of a profile's network and optimizer stops the loop."""
    # A step with zero gradients creates Adam's moments.
    config = configuration("base", profile)
    model, optimizer = build(config, torch.device("cpu"), 1)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    checkpoint = Checkpoint(
        step=1,
        model=model.state_dict(),
        optimizer=optimizer.state_dict(),
        shards_digest="",
        config_digest="",
        run_id="",
    )
    folder = Path(tempfile.mkdtemp(prefix="corrfractal-loop-"))
    synchronous = [timed(lambda: save_checkpoint(folder, checkpoint, 3)) for _ in range(5)]
    copied = []
    with CheckpointWriter(folder, 3) as writer:
        for _ in range(5):
            copied.append(timed(lambda: writer.save(checkpoint)))
            writer.join()
    size = next(folder.glob("*.pt")).stat().st_size
    shutil.rmtree(folder)
    return {
        "profile": profile,
        "MB": size / 1e6,
        "written in place": min(synchronous),
        "copied": min(copied),
        "ratio": min(synchronous) / min(copied),
    }


def settings(width: int, recompute: bool) -> TrainingConfig:
    config = configuration("full")
    return replace(config, recompute=recompute, network=replace(config.network, width=width))


def prepare_step(width: int, size: int, batch: int, recompute: bool) -> Callable[[], Any]:
    config = settings(width, recompute)
    model, optimizer = build(config, torch.device("cpu"), 1)
    data = noise(config, batch, size)
    return lambda: train_step(model, optimizer, data, 0, 10, config)


def noise(config: TrainingConfig, batch: int, size: int) -> Batch:
    shape = (batch, len(REFERENCES[config.references]) + 1)
    frames = torch.randint(0, 256, (*shape, 3, size, size), dtype=torch.uint8)
    labels = torch.randint(0, 16, (*shape, size, size), dtype=torch.uint8)
    return Batch(frames, labels, torch.ones(batch, 3), ("",) * batch)


def steps(width: int, size: int, batch: int, compiled: bool) -> dict[str, Any]:
    """Wall seconds of the first step, and CPU seconds of later ones (minimum of three)."""
    config = configuration("base")
    config = replace(config, compile=compiled, network=replace(config.network, width=width))
    model, optimizer = build(config, torch.device("cpu"), 1)
    data = noise(config, batch, size)
    first = timed(lambda: train_step(model, optimizer, data, 0, 10, config))
    later = []
    for step in (1, 2, 3):
        started = time.process_time()
        train_step(model, optimizer, data, step, 10, config)
        later.append(time.process_time() - started)
    return {
        "backbone": "compiled" if compiled else "not compiled",
        "first step, s": first,
        "later steps, CPU s": min(later),
    }


def samples_per_second(world: int, steps: int = 10) -> float:
    folder = tempfile.mkdtemp(prefix="corrfractal-loop-")
    start_processes(_steps, args=(world, folder, steps), nprocs=world, start_method="spawn")
    seconds = float(Path(folder, "seconds").read_text())
    shutil.rmtree(folder)
    return configuration("base", "cpu").batch_size * steps / seconds


def _steps(rank: int, world: int, folder: str, steps: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world
    )
    config = configuration("base", "cpu")
    model, optimizer = build(config, torch.device("cpu"), world)
    wrapped: torch.nn.Module = model
    if world > 1:
        wrapped = torch.nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
    data = noise(config, config.batch_size // world, 128)
    for step in range(steps + 2):
        # The first two steps warm up.
        if step == 2:
            dist.barrier()
            started = time.monotonic()
        train_step(wrapped, optimizer, data, step, 100, config)
    dist.barrier()
    if rank == 0:
        Path(folder, "seconds").write_text(str(time.monotonic() - started))
    dist.destroy_process_group()


def timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
