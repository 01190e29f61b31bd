"""What a GPU does with this project: training, attention, inference and labels, in one command of
less than nine minutes.

    python -m benchmarks.gpu --out DIR [--minutes 9] [--device cuda|cpu] [--small]

Each row is printed, and stored in ``DIR/gpu.json``, as soon as it is measured. What runs out of
memory or of time says so in its row. Times are medians of at least five, with the device waited
for; memory is the peak that PyTorch allocated. ``--small`` runs everything in a tiny form, for
machines without a GPU: its figures mean nothing.

Needs PyTorch and what the network imports: neither ray, mlflow, decord, faiss nor numba.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from corrfractal import restricted_attention
from corrfractal.labels.quantization import QuantizationConfig, quantize_clip
from corrfractal.network.model import CorrFractal, CorrFractalConfig
from corrfractal.network.tracker_config import FAST, TrackerConfig
from training.config import configuration
from training.loop import build
from training.meter import macs_per_sample
from training.step import train_step

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "reference"))
from operations import count_operations, noise
from reference_attention import naive_restricted_attention, unfold_windows

REPEATS = 5
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large the measured cases are."""

    width: int
    side: int
    batches: tuple[int, ...]
    """Of training, tried in this order until one fits."""
    frame: tuple[int, int]
    frames: int
    attention: tuple[tuple[str, tuple[int, int, int, int, int, int], int, bool], ...]
    """Name, (B, N, C, V, H, W), radius, backward."""
    clip: tuple[int, int]
    """Frames of a clip to label, and their side."""
    matrix: int
    compiled: bool
    """Whether to compile as well, which takes a minute on a CPU."""


FULL = Sizes(
    width=64,
    side=256,
    batches=(24, 12, 6, 3),
    frame=(480, 854),
    frames=12,
    attention=(
        ("chain", (4, 1, 64, 80, 64, 64), 5, True),
        ("appearance", (4, 1, 64, 16, 256, 256), 1, True),
        ("5 references at 1/4", (1, 5, 64, 75, 120, 214), 5, False),
        ("5 references at 1/2", (1, 5, 64, 75, 240, 427), 5, False),
    ),
    clip=(8, 256),
    matrix=8192,
    compiled=True,
)
SMALL = Sizes(
    width=4,
    side=32,
    batches=(2,),
    frame=(32, 40),
    frames=1,
    attention=(
        ("chain", (1, 1, 8, 8, 16, 16), 5, True),
        ("appearance", (1, 1, 8, 4, 16, 16), 1, True),
    ),
    clip=(2, 32),
    matrix=64,
    compiled=False,
)


@dataclass(frozen=True)
class Bench:
    """A device, what it is measured with, and the time that is left."""

    device: torch.device
    sizes: Sizes
    repeats: int
    deadline: float

    def wait(self) -> None:
        """Wait until the device has done its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def measure(self, work: Callable[[], object]) -> Row:
        """Median seconds and peak memory of ``work`` after a first call, whose seconds count apart:
        it compiles, allocates and chooses kernels. Instead of them, that memory or time ran out."""
        if time.monotonic() > self.deadline:
            return {"note": "no time left"}
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            first = self._seconds(work)
            seconds = [self._seconds(work) for _ in range(self.repeats)]
        except torch.OutOfMemoryError:
            return {"note": "out of memory"}
        row: Row = {"s": statistics.median(seconds), "first s": first}
        if self.device.type == "cuda":
            row["peak GB"] = torch.cuda.max_memory_allocated() / 1e9
            row["reserved GB"] = torch.cuda.max_memory_reserved() / 1e9
        return row

    def _seconds(self, work: Callable[[], object]) -> float:
        self.wait()
        started = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - started


def matrix_rates(bench: Bench) -> Iterator[Row]:
    """Multiply-adds per second of a large matrix product: what the device can do at most."""
    side = bench.sizes.matrix
    for name, dtype, tf32 in (
        ("fp32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("bf16", torch.bfloat16, False),
    ):
        a = torch.randn(side, side, device=bench.device).to(dtype)
        torch.backends.cuda.matmul.allow_tf32 = tf32
        row = bench.measure(partial(torch.matmul, a, a))
        torch.backends.cuda.matmul.allow_tf32 = False
        if "s" in row:
            row["TMAC/s"] = side**3 / row["s"] / 1e12
        yield {"precision": name, **row}


def training_steps(bench: Bench) -> Iterator[Row]:
    """Training steps of both presets: samples per second, and the share of the matrix rate."""
    rates = {row["precision"]: row["TMAC/s"] for row in matrix_rates(bench) if "s" in row}
    # PyTorch's convolutions round float32 to tf32 by default.
    rates["fp32"] = rates.get("tf32")
    for preset in ("base", "full"):
        plain = configuration(preset)
        plain = replace(plain, network=replace(plain.network, width=bench.sizes.width))
        macs = macs_per_sample(plain, bench.sizes.side)
        for form in ("bf16", "bf16 compiled", "fp32", "fp32 compiled"):
            if "compiled" in form and not bench.sizes.compiled:
                continue
            precision: Literal["bf16", "fp32"] = "bf16" if "bf16" in form else "fp32"
            config = replace(plain, precision=precision, compile="compiled" in form)
            row: Row = {"note": "no batch fits"}
            for batch in bench.sizes.batches:
                row = {"batch": batch, **_steps(bench, replace(config, batch_size=batch))}
                if row.get("note") != "out of memory":
                    break
            if "s" in row:
                row["samples/s"] = row["batch"] / row["s"]
                row["of the matrix rate"] = row["samples/s"] * macs / 1e12 / rates[precision]
            yield {"preset": preset, "form": form, **row}


def _steps(bench: Bench, config: Any) -> Row:
    """Steps of a configuration, each with other densities, as in a run."""
    model, optimizer = build(config, bench.device, 1)
    data = noise(config, config.batch_size, bench.sizes.side, str(bench.device))
    steps = iter(range(10**6))
    return bench.measure(lambda: train_step(model, optimizer, data, next(steps), 10**6, config))


def attention(bench: Bench) -> Iterator[Row]:
    """Restricted attention, beside unfolded windows and scaled_dot_product_attention on them."""
    for name, shape, radius, backward in bench.sizes.attention:
        inputs = _attention_inputs(bench, shape, backward)
        ours = None
        for form, function in (
            ("ours", restricted_attention),
            ("ours, tf32", restricted_attention),
            ("unfolded", naive_restricted_attention),
            ("sdpa", attention_by_sdpa),
        ):
            torch.backends.cuda.matmul.allow_tf32 = "tf32" in form
            row = bench.measure(partial(_run_attention, function, inputs, radius))
            torch.backends.cuda.matmul.allow_tf32 = False
            ours = row.get("s") if form == "ours" else ours
            if "s" in row and ours is not None:
                row["x ours"] = row["s"] / ours
            yield {"case": name, "form": form, **row}


def _attention_inputs(
    bench: Bench, shape: tuple[int, int, int, int, int, int], backward: bool
) -> tuple[Tensor, Tensor, Tensor]:
    B, N, C, V, H, W = shape

    def tensor(*size: int) -> Tensor:
        return torch.randn(size, device=bench.device).requires_grad_(backward)

    return tensor(B, C, H, W), tensor(B, N, C, H, W), tensor(B, N, V, H, W)


def _run_attention(
    function: Callable[..., Tensor], inputs: tuple[Tensor, Tensor, Tensor], radius: int
) -> None:
    out = function(*inputs, radius)
    if out.requires_grad:
        torch.autograd.grad(out.sum(), inputs)


def attention_by_sdpa(query: Tensor, key: Tensor, value: Tensor, radius: int) -> Tensor:
    """``restricted_attention`` through PyTorch's fused attention: a query a pixel, with the keys
    and values of its windows as a sequence."""
    B, C, H, W = query.shape
    V = value.shape[2]

    def sequences(x: Tensor) -> Tensor:  # (B, N, C, H, W) -> (B * H * W, windows, C)
        windows = unfold_windows(x, radius)
        return windows.permute(0, 4, 5, 1, 3, 2).reshape(B * H * W, -1, x.shape[2])

    inside = sequences(torch.ones_like(key[:, :, :1]))[..., 0] > 0
    q = query.permute(0, 2, 3, 1).reshape(B * H * W, 1, C)
    out = F.scaled_dot_product_attention(
        q, sequences(key), sequences(value), attn_mask=inside[:, None]
    )
    return out.reshape(B, H, W, V).permute(0, 3, 1, 2)


def inference(bench: Bench) -> Iterator[Row]:
    """A propagated frame with three objects: six densities, three, and the slim network."""
    height, width = bench.sizes.frame
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    mask = np.zeros((height, width), np.uint8)
    for k in (1, 2, 3):
        mask[k * height // 5 : (k + 1) * height // 5, width // 4 : width // 2] = k
    for network, config, name in (
        (bench.sizes.width, TrackerConfig(), "six densities, fp32"),
        (bench.sizes.width, TrackerConfig(precision="bf16"), "six densities, bf16"),
        (bench.sizes.width, replace(FAST, precision="bf16"), "fast, bf16"),
        (max(4, bench.sizes.width // 4), TrackerConfig(precision="bf16"), "six densities, bf16"),
    ):
        torch.manual_seed(0)
        model = CorrFractal(CorrFractalConfig(width=network)).to(bench.device)
        tracker = model.tracker(frames[0], mask, config)
        for t in range(bench.sizes.frames):  # until the memory is full
            tracker.step(frames[t % 2])
        row = bench.measure(partial(tracker.step, frames[1]))
        if "s" in row:
            row["frames/s"] = 1 / row["s"]
        yield {"width": network, "form": name, **row}


def labels(bench: Bench) -> Iterator[Row]:
    """Pseudo-labels of a clip, by PyTorch on the device."""
    count, side = bench.sizes.clip
    rng = np.random.default_rng(0)
    clip = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    config = QuantizationConfig(fit_pixels=min(4096, clip[..., 0].size))
    row = bench.measure(lambda: quantize_clip(clip, config, 0, device=str(bench.device)))
    if "s" in row:
        row["frames/s"] = count / row["s"]
    yield {"k-means": config.engine(str(bench.device)), **row}


def operations(bench: Bench) -> Iterator[Row]:
    """Operations of a training step, and times that the host reads a value (on the CPU)."""
    for preset in ("base", "full"):
        config = configuration(preset)
        config = replace(config, network=replace(config.network, width=4), batch_size=2)
        found = count_operations(config, noise(config, 2, min(bench.sizes.side, 64)))
        yield {"preset": preset, "operations": found.total, "waits": found.waits}


SECTIONS: tuple[tuple[str, Callable[[Bench], Iterator[Row]]], ...] = (
    ("matrix rates", matrix_rates),
    ("training", training_steps),
    ("attention", attention),
    ("inference", inference),
    ("labels", labels),
    ("operations", operations),
)


def describe(device: torch.device) -> Row:
    """The machine, for the head of a report."""
    facts: Row = {"torch": torch.__version__, "python": platform.python_version()}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {"device": properties.name, "memory GB": properties.total_memory / 1e9}
        facts |= {
            "cuda": torch.version.cuda,
            "capability": f"{properties.major}.{properties.minor}",
        }
    else:
        facts["device"] = f"CPU ({platform.machine()}), {torch.get_num_threads()} threads"
    return facts


def line(values: list[Any]) -> str:
    """A row of a Markdown table."""
    cells = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
    return "| " + " | ".join(cells) + " |"


@click.command()
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for gpu.json.")
@click.option("--minutes", default=9.0, show_default=True, help="Time after which nothing starts.")
@click.option("--device", type=click.Choice(["cuda", "cpu"]), show_default="cuda if there is one")
@click.option("--small", is_flag=True, help="A tiny form of everything, to try the program.")
@click.option(
    "--section", "chosen", multiple=True, type=click.Choice([name for name, _ in SECTIONS])
)
def main(
    out: Path, minutes: float, device: str | None, small: bool, chosen: tuple[str, ...]
) -> None:
    """Measure training, attention, inference and labels on a device."""
    started = time.monotonic()
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("PyTorch finds no GPU: leave --device out, or use --device cpu")
    bench = Bench(
        torch.device(name),
        SMALL if small else FULL,
        1 if small else REPEATS,
        started + 60 * minutes,
    )
    report: dict[str, Any] = {"machine": describe(bench.device), "small": small, "sections": {}}
    print(json.dumps(report["machine"]), flush=True)

    out.mkdir(parents=True, exist_ok=True)
    for title, section in SECTIONS:
        if chosen and title not in chosen:
            continue
        print(f"\n### {title}\n", flush=True)
        rows: list[Row] = []
        report["sections"][title] = rows
        columns: list[str] = []
        for row in section(bench):
            rows.append(row)
            # A row may lack columns, and a later one bring new ones: then the header is repeated.
            if not columns or set(row) - set(columns):
                columns = [*columns, *(key for key in row if key not in columns)]
                print(line(columns) + "\n" + line(["---"] * len(columns)))
            print(line([row.get(key, "") for key in columns]), flush=True)
            report["seconds"] = time.monotonic() - started
            (out / "gpu.json").write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
