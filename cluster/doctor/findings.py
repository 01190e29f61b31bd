"""Thresholds of ``corrfractal doctor``: pure functions from measured values to findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from corrfractal.common.text import without_password
from corrfractal.runtime.surroundings import Fault

GIB = 1 << 30

# Older versions have known vulnerabilities (ray, mlflow) or lack an interface that is used here.
FLOORS = {
    "ray": "2.56",
    "mlflow": "3.11",
    "torch": "2.6",
    "numpy": "2.0",
    "decord2": "3.4",
    "av": "14",
    "webdataset": "1.0.2",
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check."""

    name: str
    """What was checked."""
    level: Literal["ok", "warn", "fault"]
    """``fault``: something will fail. ``warn``: it will be slow or limited."""
    found: str
    """What was measured."""
    advice: str = ""
    """What to do about it; empty for ``ok``."""


def evaluate_version(name: str, installed: str | None) -> Finding:
    """Compare an installed version with the minimum of ``FLOORS``; None: not installed."""
    from packaging.version import Version

    advice = f"install {name} >= {FLOORS[name]}"
    if installed is None:
        return Finding(name=name, level="fault", found="not installed", advice=advice)
    if Version(installed) < Version(FLOORS[name]):
        return Finding(name=name, level="fault", found=installed, advice=advice)
    return Finding(name=name, level="ok", found=installed)


def evaluate_environment(faults: Sequence[Fault]) -> list[Finding]:
    """One finding for each invalid environment variable."""
    if not faults:
        return [Finding(name="environment", level="ok", found="no invalid variable")]
    return [
        Finding(
            name="environment",
            level="fault",
            found=without_password(f"{fault.name}: {fault.found}"),
            advice=fault.advice,
        )
        for fault in faults
    ]


def evaluate_cpu(cores: float, memory: int) -> Finding:
    """Check the usable cores and bytes of memory."""
    found = f"{cores:g} cores, {memory / GIB:.1f} GiB of memory"
    if memory < 3 * GIB:
        return Finding(
            name="cpu",
            level="fault",
            found=found,
            advice="Ray and two training workers need at least 3 GiB",
        )
    if cores < 2 or memory < 6 * GIB:
        return Finding(
            name="cpu",
            level="warn",
            found=found,
            advice="at least 2 cores and 6 GiB are recommended",
        )
    return Finding(name="cpu", level="ok", found=found)


def evaluate_gpus(gpus: Sequence[str], usable: int, cuda_build: str | None) -> Finding:
    """Compare the GPUs that the driver lists with those that torch can use.

    Args:
        gpus: names of the driver's GPUs.
        usable: number of GPUs that torch can use.
        cuda_build: CUDA version that torch was built for; None: built for the CPU.
    """
    build = f"torch for CUDA {cuda_build}" if cuda_build else "torch for CPU"
    if not gpus and not usable:
        return Finding(name="gpu", level="ok", found=f"none; {build}; work runs on the CPU")
    if usable >= len(gpus):
        return Finding(
            name="gpu",
            level="ok",
            found=f"{usable} usable ({'; '.join(gpus) or 'no nvidia-smi'}); {build}",
        )
    found = f"{usable} of {len(gpus)} usable ({'; '.join(gpus)}); {build}"
    if cuda_build is None:
        return Finding(
            name="gpu",
            level="warn",
            found=found,
            advice="install torch for CUDA, or leave the GPU idle",
        )
    advice = "the driver is too old for this torch, or CUDA_VISIBLE_DEVICES hides a GPU"
    return Finding(name="gpu", level="warn" if usable else "fault", found=found, advice=advice)


def evaluate_faiss(flavours: Sequence[str], gpus: int, usable: int) -> Finding:
    """Check that exactly one build of faiss is installed and fits the machine.

    Args:
        flavours: installed distributions named ``faiss-...``.
        gpus: number of GPUs that the driver lists.
        usable: number of GPUs that faiss can use.
    """
    found = " and ".join(flavours) or "not installed"
    if not flavours:
        return Finding(
            name="faiss",
            level="fault",
            found=found,
            advice="install faiss-cpu, or the extra corrfractal[gpu]",
        )
    if len(flavours) > 1:
        advice = (
            "both provide `faiss` and overwrite each other: "
            f"pip uninstall {' '.join(flavours)}, then install one"
        )
        return Finding(name="faiss", level="fault", found=found, advice=advice)
    if flavours[0] == "faiss-cpu":
        return Finding(name="faiss", level="ok", found=found)
    if gpus and not usable:
        advice = (
            "faiss finds no GPU: its CUDA version does not match the driver; "
            "faiss-cpu works everywhere"
        )
        return Finding(name="faiss", level="fault", found=found, advice=advice)
    if not gpus:
        return Finding(
            name="faiss",
            level="warn",
            found=f"{found}, but no GPU",
            advice="faiss-cpu is enough on this machine",
        )
    return Finding(name="faiss", level="ok", found=f"{found}, {usable} GPUs")


def evaluate_decoder(name: str, frames: int, expected: int, error: float) -> Finding:
    """Check the frames that were decoded again after encoding.

    Args:
        frames, expected: number of frames decoded, and encoded.
        error: mean absolute error of their pixels, in grey levels of 0..255.
    """
    found = f"{frames} of {expected} h264 frames read back, mean error {error:.1f}"
    if frames == expected and error < 4:
        return Finding(name=name, level="ok", found=found)
    advice = "the decoder or its FFmpeg is broken; reinstall the packages of requirements.lock"
    return Finding(name=name, level="fault", found=found, advice=advice)


def evaluate_tracking(
    uri: str, fault: str | None, new: bool = False, moved_from: Path | None = None
) -> Finding:
    """Report the state of an MLflow store, without passwords.

    Args:
        fault: why the store cannot be used; None: it can.
        new: the store does not exist yet.
        moved_from: folder for which the store of this folder was created, if it is another one.
    """
    if moved_from is not None:
        found = f"{uri} was moved or copied from {moved_from}"
        advice = "the next command that opens it updates its artefact locations"
        return Finding(name="tracking", level="warn", found=found, advice=advice)
    if fault is None:
        found = f"{without_password(uri)} {'will be created' if new else 'answers'}"
        return Finding(name="tracking", level="ok", found=found)
    advice = "set MLFLOW_TRACKING_URI, e.g. sqlite:///mlflow.db or the URL of a running server"
    return Finding(name="tracking", level="fault", found=without_password(fault), advice=advice)


def evaluate_unwritable(folder: Path, reason: str) -> Finding:
    """Report a folder in which no file can be created."""
    advice = "name another folder with --out, or change its owner"
    return Finding(name="out folder", level="fault", found=f"{folder}: {reason}", advice=advice)


def evaluate_disk(free: int, ray_used: float) -> Finding:
    """Check free disk space.

    Args:
        free: free bytes where outputs are written.
        ray_used: used share, 0..1, of the file system that holds Ray's session files.
    """
    found = f"{free / GIB:.0f} GiB free; Ray's is {ray_used:.0%} full"
    if free < GIB:
        return Finding(
            name="disk",
            level="fault",
            found=found,
            advice="free some space: one hour of video takes about 5 GB",
        )
    if ray_used > 0.95:
        advice = "above 95 % Ray stops creating objects: free space where TMPDIR points"
        return Finding(name="disk", level="warn", found=found, advice=advice)
    if free < 10 * GIB:
        return Finding(
            name="disk",
            level="warn",
            found=found,
            advice="enough for the demo, not for a large data set",
        )
    return Finding(name="disk", level="ok", found=found)


def evaluate_shared_memory(total: int | None) -> Finding:
    """Check the size of ``/dev/shm`` in bytes; None: the system has none."""
    if total is None:
        return Finding(
            name="shared memory", level="ok", found="no /dev/shm on this system; Ray uses files"
        )
    found = f"/dev/shm has {total / GIB:.2f} GiB"
    if total < GIB // 2:
        advice = "Ray falls back to files, which is slow: start the container with --shm-size=1g"
        return Finding(name="shared memory", level="warn", found=found, advice=advice)
    return Finding(name="shared memory", level="ok", found=found)


def evaluate_open_files(limit: int) -> Finding:
    """Check the hard limit of open files of a process; -1: no limit."""
    found = "no limit" if limit < 0 else f"limit {limit}"
    if 0 <= limit < 1024:
        return Finding(
            name="open files", level="fault", found=found, advice="raise it: ulimit -n 65536"
        )
    if 0 <= limit < 8192:
        return Finding(
            name="open files",
            level="warn",
            found=found,
            advice="large clusters need more: ulimit -n 65536",
        )
    return Finding(name="open files", level="ok", found=found)
