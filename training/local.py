"""``python -m training.local``: train without Ray and without MLflow, in this process or under
torchrun.

    python -m training.local SHARDS --out runs/first
    torchrun --standalone --nproc-per-node 2 -m training.local SHARDS --out runs/first

The loop, the configuration, the checkpoints and the weights are those of ``corrfractal train``, and
each of the two resumes a folder of the other. ``corrfractal train`` on a folder of this one opens
its MLflow run, sends the metrics so far, and registers the model once it is complete.

For one person with a GPU and no cluster, for debuggers, and for machines on which neither Ray,
MLflow, decord, faiss nor numba is installed: none of them is imported.
"""

from __future__ import annotations

if __name__ == "__main__":
    # Before all other imports: it drops the working folder, which could provide any of them.
    from corrfractal.runtime import search_path  # noqa: F401

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
import torch.distributed as dist

from corrfractal.common.command_line import LOCATION, SETTINGS, config_option, examples
from corrfractal.common.console import command, say
from corrfractal.common.errors import CallError
from corrfractal.runtime.streams import prepare_streams
from training.cli import OUT, PRESET, PROFILE, STEPS, say_result
from training.config import TrainingConfig, requested_configuration
from training.loop import Outcome, fit, set_threads
from training.request import check_job, open_untracked_run
from training.run import check_finished
from training.state.attempts import note_attempt
from training.state.driver_progress import note_previous, show_progress
from training.state.stop import catch_interrupts, withdraw_stop


@dataclass(frozen=True)
class Place:
    """Where this process is among those of torchrun; alone without it.

    Attributes:
        rank: among all processes.
        world: number of processes.
        local_rank: among those of this host.
        local_world: number of processes of this host.
    """

    rank: int
    world: int
    local_rank: int
    local_world: int

    @classmethod
    def of_environment(cls) -> Place:
        """As torchrun states it."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        missing = [name for name in names if name not in os.environ]
        if "TORCHELASTIC_RUN_ID" not in os.environ or missing:
            return cls(rank=0, world=1, local_rank=0, local_world=1)
        return cls(*(int(os.environ[name]) for name in names))


@click.command(
    epilog=examples(
        "python -m training.local shards --out runs/first",
        "python -m training.local shards --out runs/first --device cuda --set precision=bf16",
        "torchrun --standalone --nproc-per-node 2 -m training.local shards --out runs/first",
    )
)
@click.argument("shards", type=LOCATION)
@OUT
@PRESET
@PROFILE
@STEPS
@config_option("training")
@SETTINGS
@click.option(
    "--device",
    type=click.Choice(["cuda", "cpu"]),
    show_default="cuda if there is one and the profile is gpu, otherwise cpu",
    help="Where to train; under torchrun each process of a host has a GPU of its own.",
)
@click.option(
    "--backend",
    type=click.Choice(["nccl", "gloo"]),
    show_default="nccl on GPUs, gloo on CPUs",
    help="How the processes of torchrun exchange gradients.",
)
@command
def main(
    shards: str,
    out: Path,
    preset: str | None,
    profile: str | None,
    steps: int | None,
    config_file: Path | None,
    settings: tuple[str, ...],
    device: str | None,
    backend: str | None,
) -> dict[str, Any]:
    """Train on SHARDS without Ray and MLflow. Run the same command again to resume."""
    started = time.monotonic()
    gpu = torch.cuda.is_available()
    config, profile = requested_configuration(
        config_file, settings, preset=preset, profile=profile, steps=steps, gpu=gpu
    )
    if device is None:
        device = "cuda" if gpu and profile != "cpu" else "cpu"
    place = Place.of_environment()
    _check_devices(device, backend, place)

    outcome = train_here(shards, out, config, place, device, backend)
    if outcome is Outcome.STOPPED:
        raise KeyboardInterrupt
    if place.rank > 0:
        return {}

    check_finished(out)
    metrics = json.loads((out / "result.json").read_text())
    steps_done = metrics.pop("step")
    metrics.pop("model_sha256", None)
    model_file = out.absolute() / "model.safetensors"
    seconds = time.monotonic() - started
    say_result(steps_done, seconds, metrics)
    say(f"model file: {model_file}")
    return {"model_file": str(model_file), "steps": steps_done, "seconds": seconds, **metrics}


def train_here(
    shards: str | Path,
    out: Path,
    config: TrainingConfig,
    place: Place,
    device: str,
    backend: str | None = None,
) -> Outcome:
    """Train as one of the processes of a run, and return how its loop ended.

    Args:
        shards: folder with ``manifest.json``, local or a URI.
        out: folder of the run; an existing run is resumed.
        config: how to train.
        place: of this process.
        device: ``cuda`` or ``cpu``.
        backend: of the process group; None: nccl on GPUs, gloo on CPUs.

    Raises:
        CallError: the call does not suit the data or the folder.
        BoundExceededError: the labels are collapsed, static or noise.
        IntegrityError: a shard is damaged.
    """
    set_threads(place.local_world)
    bounds = (place.world, place.world)

    # Rank 0 opens the run before it joins the others, which wait for it and find its job.
    if place.rank == 0:
        call = check_job(shards, out, config, bounds)
        job = open_untracked_run(call)
    own_device = torch.device("cpu")
    if device == "cuda":
        own_device = torch.device("cuda", place.local_rank)
        torch.cuda.set_device(own_device)
    if place.world > 1:
        dist.init_process_group(backend or ("nccl" if device == "cuda" else "gloo"))
    if place.rank > 0:
        call = check_job(shards, out, config, bounds)
        job = open_untracked_run(call)

    folder = Path(job.out)
    try:
        if (folder / "result.json").exists():
            return Outcome.FINISHED
        catch_interrupts()
        if place.rank > 0:
            return fit(job, own_device, place.rank, place.world, samples=call.samples)

        note_attempt(folder, bounds)
        note_previous(job.out)
        # A driver of `corrfractal train` that was killed may have left its request to stop.
        withdraw_stop(folder)
        with show_progress(job, messages=False):
            return fit(job, own_device, place.rank, place.world, samples=call.samples)
    finally:
        if place.world > 1:
            dist.destroy_process_group()


def _check_devices(device: str, backend: str | None, place: Place) -> None:
    """Raise a ``CallError`` if a process has no GPU of its own, or nccl would have none at all."""
    if device == "cpu":
        if backend == "nccl":
            raise CallError("--backend nccl needs GPUs: use --device cuda, or --backend gloo")
        return
    count = torch.cuda.device_count()
    if count < place.local_world:
        raise CallError(
            f"PyTorch finds {count} GPUs, and {place.local_world} processes of this host want one "
            "each: start fewer, or use --device cpu"
        )


if __name__ == "__main__":
    prepare_streams()
    main(prog_name="python -m training.local")
