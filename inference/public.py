"""What the package ``corrfractal`` exports of this one."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from corrfractal.files.storage import place
from inference.benchmarks.base import AnyPicturedBenchmark
from inference.benchmarks.results import Summary

from .config import InferenceConfig

BenchmarkName = Literal["davis", "youtubevos", "jhmdb", "vip"]


def evaluate(
    benchmark: BenchmarkName,
    data: str | Path,
    *,
    out: str | Path,
    model: str | Path | None = None,
    split: str | None = None,
    config: InferenceConfig | None = None,
    workers: int | None = None,
    overwrite: bool = False,
) -> Summary:
    """Propagate and score a benchmark, as ``corrfractal evaluate`` does.

    Sequences are scored in parallel on Ray. Call it again after an interruption: sequences that
    were scored with the same model and settings are not repeated.

    Args:
        benchmark: ``davis``, ``youtubevos``, ``jhmdb`` or ``vip``.
        data: folder of the data set.
        out: folder for predictions, ``scores.json`` and ``report.html``, local or a URI.
        model: safetensors file, model folder, ``models:/NAME@ALIAS``, ``runs:/ID/model``,
            ``champion``, ``candidate``, a version number, ``starter`` or ``baseline:...``. None:
            the champion of the registry; otherwise its candidate; otherwise the starter.
        split: DAVIS: the year, ``2017`` or ``2016``; YouTube-VOS: the sub-folder, default
            ``valid``; JHMDB: ``1``, ``2``, ``3`` or ``all``, default ``1``.
        config: of the propagation.
        workers: sequences processed at once; None: one per CPU.
        overwrite: replace files that no evaluation wrote. Inputs are never replaced.

    Returns:
        The scores; ``.to_dict()`` is the contents of ``scores.json``.

    Raises:
        ValueError: no such benchmark, or VIP with a split.
        CallError: ``out`` touches the data set or the model, or holds files of another origin.
        NotFoundError: no such data set or model.
        CorrFractalError: sequences failed; names each with its reason.
    """
    from .evaluate import evaluate as evaluate_benchmark
    from .evaluate import evaluate_davis

    name = None if model is None else str(model)
    if benchmark == "davis":
        return evaluate_davis(
            Path(data),
            place(str(out)),
            name,
            config,
            workers=workers,
            year=split,
            overwrite=overwrite,
        )
    opened = _open_benchmark(benchmark, Path(data).resolve(), split)
    return evaluate_benchmark(
        opened, place(str(out)), name, config, workers=workers, overwrite=overwrite
    )


def _open_benchmark(name: str, data: Path, split: str | None) -> AnyPicturedBenchmark:
    from inference.benchmarks.jhmdb import Jhmdb
    from inference.benchmarks.vip import Vip
    from inference.benchmarks.youtubevos import YoutubeVos

    if name == "youtubevos":
        return YoutubeVos(data, split or "valid")
    if name == "jhmdb":
        return Jhmdb(data, split or "1")
    if name != "vip":
        raise ValueError(f"benchmark must be davis, youtubevos, jhmdb or vip, got {name!r}")
    if split is not None:
        raise ValueError("vip has one split: leave split out")
    return Vip(data)
