"""Checks of this machine: each returns a finding with a level, what was found and what to do.

Level ``fault`` means that something will fail, ``warn`` that it will be slow or limited. A check
measures the machine and passes plain values to a function of ``cluster.doctor.findings``, which
decides the level. Checks leave no files behind.
"""

from __future__ import annotations

import dataclasses
import math
import os
import platform
import re
import resource
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from corrfractal.common.console import say
from corrfractal.common.errors import CorrFractalError
from corrfractal.registry import store
from corrfractal.registry.store.relocation import moved_from
from corrfractal.runtime.process import cpu_count
from corrfractal.runtime.surroundings import cluster_address, find_faults, ray_groups

from .findings import (
    FLOORS,
    Finding,
    evaluate_cpu,
    evaluate_decoder,
    evaluate_disk,
    evaluate_environment,
    evaluate_faiss,
    evaluate_gpus,
    evaluate_open_files,
    evaluate_shared_memory,
    evaluate_tracking,
    evaluate_unwritable,
    evaluate_version,
)

CHECKS_SKIPPED = Finding(
    name="other checks",
    level="warn",
    found="skipped: they use the libraries that read these variables",
    advice="fix the environment, then run the same command again",
)


def examine(out: Path) -> list[Finding]:
    """Run all checks; takes a few seconds.

    Args:
        out: folder that outputs would be written to; it need not exist.
    """
    # With one of these faults a library would crash or hang as soon as it is imported.
    faults = find_faults("any")
    if faults:
        return [*check_versions(), *evaluate_environment(faults), CHECKS_SKIPPED]

    gpus = nvidia_gpus()
    return [
        *check_versions(),
        *check_environment(),
        check_cpu(),
        check_gpus(gpus),
        check_faiss(gpus),
        _guarded("decord", lambda: check_decoder("decord")),
        _guarded("pyav", lambda: check_decoder("pyav")),
        _guarded("ray runtime", check_ray),
        _guarded("tracking", check_tracking),
        check_folder(out),
        check_disk(out),
        check_shared_memory(),
        check_open_files(),
    ]


def report(findings: list[Finding]) -> dict[str, Any]:
    """Print the findings, one per line with the advice below; return them for ``--json``.

    The result's ``ok`` is False if there is a fault.
    """
    for finding in findings:
        say(f"{finding.level:5}  {finding.name:15}  {finding.found}")
        if finding.advice:
            say(f"{'':24}-> {finding.advice}")
    counts = Counter(finding.level for finding in findings)
    say(", ".join(f"{counts[level]} {level}" for level in ("ok", "warn", "fault")))
    return {
        "ok": counts["fault"] == 0,
        "findings": [dataclasses.asdict(finding) for finding in findings],
    }


def check_versions() -> list[Finding]:
    """The version of Python, and of each package that has a minimum version."""
    installed = {name: _version(name) for name in FLOORS}
    python = Finding(
        name="python",
        level="ok",
        found=f"{platform.python_version()} on {platform.platform(terse=True)}",
    )
    return [python, *(evaluate_version(name, version) for name, version in installed.items())]


def check_cpu() -> Finding:
    """Cores and memory that this process may use, including the limits of its control group."""
    cores = float(cpu_count())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

    # Both files say "max" where a container has no limit, and are missing outside of cgroup v2.
    quota = re.fullmatch(r"(\d+) (\d+)", _first_line("/sys/fs/cgroup/cpu.max"))
    if quota:
        cores = min(cores, int(quota[1]) / int(quota[2]))
    limit = _first_line("/sys/fs/cgroup/memory.max")
    if limit.isdigit():
        memory = min(memory, int(limit))
    return evaluate_cpu(cores, memory)


def nvidia_gpus() -> list[str]:
    """Names and memory of the NVIDIA GPUs that the driver lists; empty without a driver."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        listing = subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in listing.splitlines() if line.strip()]


def check_gpus(gpus: list[str]) -> Finding:
    """Whether torch can use the GPUs that the driver lists."""
    try:
        import torch
    except (ImportError, OSError) as exc:
        return _broken("torch device", exc)
    usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return evaluate_gpus(gpus, usable=usable, cuda_build=torch.version.cuda)


def check_faiss(gpus: list[str]) -> Finding:
    """Which build of faiss is installed, and whether it fits the machine."""
    names = {str(package.metadata["Name"]).lower() for package in metadata.distributions()}
    flavours = sorted(name for name in names if name.startswith("faiss-"))
    try:
        import faiss
    except (ImportError, OSError) as exc:
        if flavours:
            return _broken("faiss", exc)
        return evaluate_faiss(flavours, gpus=len(gpus), usable=0)
    usable = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    return evaluate_faiss(flavours, gpus=len(gpus), usable=usable)


def check_decoder(name: str) -> Finding:
    """Encode twelve frames as h264 and read them back with one decoder (``decord`` or ``pyav``)."""
    import numpy as np

    from corrfractal.video import open_video, write_video

    ramp = np.linspace(20, 200, 240 * 160, dtype=np.uint8).reshape(160, 240, 1)
    sent = np.stack([np.repeat(ramp + np.uint8(4 * t), 3, axis=2) for t in range(12)])
    with tempfile.TemporaryDirectory(prefix="corrfractal-doctor-") as folder:
        path = Path(folder) / "probe.mp4"
        write_video(path, sent, fps=24)
        got = np.stack([frame.image for frame in open_video(path, decoder=name).frames()])
    error = math.inf
    if got.shape == sent.shape:
        error = float(np.abs(got.astype(float) - sent).mean())
    return evaluate_decoder(name, frames=len(got), expected=len(sent), error=error)


def check_environment() -> list[Finding]:
    """Environment variables that a command would refuse, one finding for each.

    The cluster that ``RAY_ADDRESS`` names must answer.
    """
    return evaluate_environment(find_faults("training", *ray_groups()))


def check_ray() -> Finding:
    """Whether Ray can be imported; it is not started."""
    import ray

    address = cluster_address()
    action = f"join the cluster at {address}" if address else "start on this machine"
    found = f"{ray.__version__} imports; would {action}"
    return Finding(name="ray runtime", level="ok", found=found)


def check_tracking(given: str | None = None) -> Finding:
    """Whether the MLflow store can be used, by the same checks that every command makes.

    Read-only. MLflow is not imported, which would take seconds.
    """
    uri = given or os.environ.get("MLFLOW_TRACKING_URI") or str(Path("mlflow.db").absolute())
    try:
        uri = store.tracking_uri(given)
        exists = store.check_store(uri, write=True)
        file = store.local_file(uri)
        if file is None:
            return evaluate_tracking(uri, fault=None)
        if not exists:
            return evaluate_tracking(uri, fault=None, new=True)
        store.check_contents(file)
        return evaluate_tracking(uri, fault=None, moved_from=moved_from(file))
    except CorrFractalError as exc:
        return evaluate_tracking(uri, fault=str(exc))


def check_folder(out: Path) -> Finding:
    """Whether a file can be created in ``out``, or in its nearest existing parent."""
    folder = _existing(out.absolute())
    try:
        with tempfile.TemporaryFile(dir=folder):
            return Finding(name="out folder", level="ok", found=f"{folder} can be written")
    except OSError as exc:
        return evaluate_unwritable(folder, str(exc.strerror or exc))


def check_disk(out: Path) -> Finding:
    """Free space for outputs, and on the file system where Ray spills objects."""
    ray = shutil.disk_usage(tempfile.gettempdir())
    free = shutil.disk_usage(_existing(out.absolute())).free
    return evaluate_disk(free, ray.used / ray.total)


def check_shared_memory() -> Finding:
    """Size of ``/dev/shm``, where Ray keeps its object store."""
    path = Path("/dev/shm")
    return evaluate_shared_memory(shutil.disk_usage(path).total if path.is_dir() else None)


def check_open_files() -> Finding:
    """The hard limit of open files; Ray raises the soft limit to it."""
    return evaluate_open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def _guarded(name: str, check: Callable[[], Finding]) -> Finding:
    """Run a check; any exception of a broken library becomes a finding."""
    try:
        return check()
    except Exception as exc:
        return _broken(name, exc)


def _broken(name: str, exc: Exception) -> Finding:
    text = " ".join(str(exc).split()) or type(exc).__name__
    return Finding(
        name=name,
        level="fault",
        found=text[:200],
        advice="reinstall the packages of requirements.lock",
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _existing(path: Path) -> Path:
    """``path``, or its nearest existing parent."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
