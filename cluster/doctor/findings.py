"""What ``corrfractal doctor`` makes of what it found: pure decisions on plain values, no machine
needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from corrfractal.common.surroundings import Fault
from corrfractal.common.text import without_password

GIB = 1 << 30

# below: known vulnerabilities (ray, mlflow), or an interface that this project uses is missing
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
    """One line of the examination: what was looked at, how it stands, what was found, what to do
    about it."""

    name: str
    level: Literal["ok", "warn", "fault"]
    found: str
    advice: str = ""


def judge_version(name: str, installed: str | None) -> Finding:
    """An installed version against its floor."""
    from packaging.version import Version

    floor = FLOORS[name]
    if installed is None:
        return Finding(
            name=name, level="fault", found="not installed", advice=f"install {name} >= {floor}"
        )
    if Version(installed) < Version(floor):
        return Finding(
            name=name, level="fault", found=installed, advice=f"install {name} >= {floor}"
        )
    return Finding(name=name, level="ok", found=installed)


def judge_environment(faults: Sequence[Fault]) -> list[Finding]:
    """Settings of the environment that cannot work."""
    if not faults:
        return [Finding(name="environment", level="ok", found="no variable that cannot work")]
    return [
        Finding(
            name="environment",
            level="fault",
            found=without_password(f"{fault.name}: {fault.found}"),
            advice=fault.advice,
        )
        for fault in faults
    ]


def judge_cpu(cores: float, memory: int) -> Finding:
    """Usable cores and bytes of memory."""
    found = f"{cores:g} cores, {memory / GIB:.1f} GiB of memory"
    if memory < 3 * GIB:
        return Finding(
            name="cpu", level="fault", found=found, advice="Ray and two training workers need 3 GiB"
        )
    if cores < 2 or memory < 6 * GIB:
        return Finding(
            name="cpu",
            level="warn",
            found=found,
            advice="2 cores and 6 GiB are the least for comfort",
        )
    return Finding(name="cpu", level="ok", found=found)


def judge_gpus(gpus: Sequence[str], usable: int, cuda_build: str | None) -> Finding:
    """GPUs that the driver offers, how many of them torch can use, and the CUDA version torch was
    built for."""
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


def judge_faiss(flavours: Sequence[str], gpus: int, usable: int) -> Finding:
    """Installed ``faiss-...`` distributions, GPUs of the machine, GPUs that faiss can use."""
    found = " and ".join(flavours) or "not installed"
    if not flavours:
        return Finding(
            name="faiss",
            level="fault",
            found=found,
            advice="install faiss-cpu, or the extra corrfractal[gpu]",
        )
    if len(flavours) > 1:
        advice = f"both provide `faiss` and overwrite each other: pip uninstall {' '.join(flavours)}, then install one"
        return Finding(name="faiss", level="fault", found=found, advice=advice)
    if flavours[0] == "faiss-cpu":
        return Finding(name="faiss", level="ok", found=found)
    if gpus and not usable:
        advice = "faiss sees no GPU: its CUDA version does not fit the driver; faiss-cpu works everywhere"
        return Finding(name="faiss", level="fault", found=found, advice=advice)
    if not gpus:
        return Finding(
            name="faiss",
            level="warn",
            found=f"{found}, no GPU here",
            advice="faiss-cpu is enough here",
        )
    return Finding(name="faiss", level="ok", found=f"{found}, {usable} GPUs")


def judge_decoder(name: str, frames: int, expected: int, error: float) -> Finding:
    """Frames read back of those encoded, and the mean absolute error of their pixels (0..255)."""
    found = f"{frames} of {expected} h264 frames read back, mean error {error:.1f}"
    if frames == expected and error < 4:
        return Finding(name=name, level="ok", found=found)
    advice = "the decoder or its FFmpeg is broken; install the parts again from requirements.lock"
    return Finding(name=name, level="fault", found=found, advice=advice)


def judge_tracking(
    uri: str, fault: str | None, new: bool = False, moved_from: Path | None = None
) -> Finding:
    """An MLflow tracking URI and what is wrong with its store; passwords are not shown."""
    if moved_from is not None:
        found = f"{uri} was moved or copied from {moved_from}"
        advice = "the next command that opens it updates its artefact locations"
        return Finding(name="tracking", level="warn", found=found, advice=advice)
    if fault is None:
        found = f"{without_password(uri)} {'will be made' if new else 'answers'}"
        return Finding(name="tracking", level="ok", found=found)
    advice = "set MLFLOW_TRACKING_URI, e.g. sqlite:///mlflow.db or the URL of a server that runs"
    return Finding(name="tracking", level="fault", found=without_password(fault), advice=advice)


def judge_unwritable(folder: Path, reason: str) -> Finding:
    """A folder in which no file can be made."""
    advice = "name another folder with --out, or change its owner"
    return Finding(name="out folder", level="fault", found=f"{folder}: {reason}", advice=advice)


def judge_disk(free: int, ray_used: float) -> Finding:
    """Free bytes for the work, and how full the file system of Ray's session files is, 0..1."""
    found = f"{free / GIB:.0f} GiB free; Ray's is {ray_used:.0%} full"
    if free < GIB:
        return Finding(
            name="disk",
            level="fault",
            found=found,
            advice="make room: one hour of video takes about 5 GB",
        )
    if ray_used > 0.95:
        advice = "above 95 % Ray creates no objects any more: make room where TMPDIR points"
        return Finding(name="disk", level="warn", found=found, advice=advice)
    if free < 10 * GIB:
        return Finding(
            name="disk",
            level="warn",
            found=found,
            advice="enough for the demo, not for a large data set",
        )
    return Finding(name="disk", level="ok", found=found)


def judge_shared_memory(total: int | None) -> Finding:
    """Bytes of ``/dev/shm``; None where there is none."""
    if total is None:
        return Finding(
            name="shared memory", level="ok", found="no /dev/shm on this system; Ray uses files"
        )
    found = f"/dev/shm has {total / GIB:.2f} GiB"
    if total < GIB // 2:
        advice = "Ray falls back to files, which is slow: start the container with --shm-size=1g"
        return Finding(name="shared memory", level="warn", found=found, advice=advice)
    return Finding(name="shared memory", level="ok", found=found)


def judge_open_files(limit: int) -> Finding:
    """The hard limit of open files of a process; -1 is none."""
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
