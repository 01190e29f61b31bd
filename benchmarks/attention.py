"""Restricted attention compared with naive baselines and with the machine's limit.

    python benchmarks/attention.py

Baselines: the usual research code, which unfolds keys and values, in the form that takes less
memory (einsum) and in the faster one (product and sum). Both are the reference of the tests,
``tests/reference/reference_attention.py``. Limit: the floating-point operations of the exact
windows at the rate of this machine's best matrix product.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measure import cpu_seconds, peak_mb, print_table

from corrfractal import restricted_attention

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "reference"))
from reference_attention import naive_restricted_attention as naive_restricted_attention

OURS = "ours"
BASELINES = ("einsum", "multiply")


@dataclass(frozen=True)
class Case:
    name: str
    shape: tuple[int, int, int, int, int, int]
    """B, N, C, V, H, W"""
    radius: int
    backward: bool
    baselines: bool = True
    """Whether the baselines can run: their copies fit into memory."""


CASES = (
    Case("training, chain: B4 64x64 11x11, fwd+bwd", (4, 1, 64, 80, 64, 64), 5, True),
    Case("training, appearance: B4 256x256 3x3, fwd+bwd", (4, 1, 64, 16, 256, 256), 1, True),
    Case("inference, 1/4: 5 references 120x214 11x11, fwd", (1, 5, 64, 75, 120, 214), 5, False),
    Case(
        "inference, 1/2: 5 references 240x427 11x11, fwd",
        (1, 5, 64, 75, 240, 427),
        5,
        False,
        baselines=False,
    ),
)


def main() -> None:
    # With several threads, process CPU time would include waiting for each other.
    torch.set_num_threads(1)
    rate = gemm_rate()
    print_table(
        f"restricted attention: ours, baselines, limit ({rate / 1e9:.0f} GFLOP/s)",
        [measure(case, rate) for case in CASES],
    )


def measure(case: Case, rate: float) -> dict[str, Any]:
    B, N, C, V, H, W = case.shape
    seconds = cpu_seconds(prepare(case, OURS))
    memory = peak_mb(prepare, case, OURS)
    row: dict[str, Any] = {
        "case": case.name,
        "ours s": seconds,
        "ours MB": memory,
        "bytes per output px": 1e6 * memory / (B * H * W),
        "x over limit": seconds / (flops(case) / rate),
    }
    if not case.baselines:
        copies = (2 * case.radius + 1) ** 2
        gigabytes = 4 * B * N * (C + V) * H * W * copies / 1e9
        row["faster baseline s"] = f"cannot run: {gigabytes:.0f} GB of copies"
        return row
    times = {name: cpu_seconds(prepare(case, name)) for name in BASELINES}
    memories = {name: peak_mb(prepare, case, name) for name in BASELINES}
    row["faster baseline s"] = min(times.values())
    row["x faster"] = min(times.values()) / seconds
    row["leaner baseline MB"] = min(memories.values())
    row["x less memory"] = min(memories.values()) / memory
    return row


def prepare(case: Case, form: str) -> Callable[[], None]:
    """Allocate the inputs, which is not measured; return the work."""
    inputs = make_inputs(case)
    function: Callable[..., torch.Tensor] = restricted_attention
    if form != OURS:
        function = partial(naive_restricted_attention, product=form)

    def work() -> None:
        with torch.set_grad_enabled(case.backward):
            out = function(*inputs, case.radius)
        if case.backward:
            torch.autograd.grad(out.sum(), inputs)

    return work


def make_inputs(case: Case) -> list[torch.Tensor]:
    B, N, C, V, H, W = case.shape
    generator = torch.Generator().manual_seed(0)
    shapes = ((B, C, H, W), (B, N, C, H, W), (B, N, V, H, W))
    return [torch.randn(s, generator=generator, requires_grad=case.backward) for s in shapes]


def flops(case: Case) -> float:
    """Floating-point operations, two per multiply-add.

    Forward has two products; backward recomputes one of them and has four more.
    """
    B, N, C, V, H, W = case.shape
    pairs = B * N * H * W * (2 * case.radius + 1) ** 2
    forward = 2 * pairs * (C + V)
    backward = 2 * pairs * C + 4 * pairs * (C + V)
    return float(forward + backward) if case.backward else float(forward)


def gemm_rate() -> float:
    """Rate of a large matrix product, in floating-point operations per second."""
    a = torch.randn(2048, 2048)
    b = torch.randn(2048, 2048)
    return 2 * 2048**3 / cpu_seconds(lambda: a @ b)


if __name__ == "__main__":
    main()
