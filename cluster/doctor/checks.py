"""Is this machine fit for the work? One finding a check: ``ok``, ``warn`` or ``fault``, what was
found, what to do.

``fault`` means that something will fail, ``warn`` that it will be slow or limited. A check asks the
machine and hands plain values to a ``judge`` of ``cluster.doctor.findings``, which decides. Nothing stays
behind on the machine.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from corrfractal.common.console import say
from corrfractal.common.errors import CorrFractalError
from corrfractal.common.process import cpu_count
from corrfractal.common.surroundings import cluster_address, find_faults, ray_groups
from corrfractal.registry import store
from corrfractal.registry.store.relocation import moved_from

from . import findings as verdicts
from .findings import Finding

UNCHECKED = Finding(
    name="other checks",
    level="warn",
    found="left out: they use the libraries that read these variables",
    advice="mend the environment, then run the same command again",
)


def examine(out: Path) -> list[Finding]:
    """Run all checks; ``out`` is the folder that work would be written to. Takes a few seconds."""
    if faults := find_faults("any"):  # a library would crash, or not come to an end, over these
        return [*check_versions(), *verdicts.judge_environment(faults), UNCHECKED]
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
    """Print the findings, one a line, with advice below; return them for ``--json``, ``ok`` being
    false on a fault."""
    for finding in findings:
        say(f"{finding.level:5}  {finding.name:15}  {finding.found}")
        if finding.advice:
            say(f"{'':24}-> {finding.advice}")
    counts = {
        level: sum(finding.level == level for finding in findings)
        for level in ("ok", "warn", "fault")
    }
    say(", ".join(f"{count} {level}" for level, count in counts.items()))
    return {
        "ok": counts["fault"] == 0,
        "findings": [dataclasses.asdict(finding) for finding in findings],
    }


def check_versions() -> list[Finding]:
    """Python, and the version of each part that has a floor."""
    installed = {name: _version(name) for name in verdicts.FLOORS}
    python = Finding(
        name="python",
        level="ok",
        found=f"{platform.python_version()} on {platform.platform(terse=True)}",
    )
    return [python, *(verdicts.judge_version(name, version) for name, version in installed.items())]


def check_cpu() -> Finding:
    """Cores and memory that this process may use, control groups included."""
    cores = float(cpu_count())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    quota, period = (*_first_line("/sys/fs/cgroup/cpu.max").split(), "", "")[:2]
    if quota.isdigit() and period.isdigit():
        cores = min(cores, int(quota) / int(period))
    limit = _first_line("/sys/fs/cgroup/memory.max")
    return verdicts.judge_cpu(cores, min(memory, int(limit)) if limit.isdigit() else memory)


def nvidia_gpus() -> list[str]:
    """Names of the NVIDIA GPUs that the driver offers; none without a driver."""
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
    """Whether torch can use the GPUs that the driver offers."""
    try:
        import torch
    except (ImportError, OSError) as exc:
        return _broken("torch device", exc)
    usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return verdicts.judge_gpus(gpus, usable=usable, cuda_build=torch.version.cuda)


def check_faiss(gpus: list[str]) -> Finding:
    """Which build of faiss is installed, and whether it fits the machine."""
    names = {
        str(distribution.metadata["Name"]).lower() for distribution in metadata.distributions()
    }
    flavours = sorted(name for name in names if name.startswith("faiss-"))
    try:
        import faiss
    except (ImportError, OSError) as exc:
        return (
            _broken("faiss", exc)
            if flavours
            else verdicts.judge_faiss(flavours, gpus=len(gpus), usable=0)
        )
    usable = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    return verdicts.judge_faiss(flavours, gpus=len(gpus), usable=usable)


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
    error = (
        float(np.abs(got.astype(float) - sent).mean()) if got.shape == sent.shape else float("inf")
    )
    return verdicts.judge_decoder(name, frames=len(got), expected=len(sent), error=error)


def check_environment() -> list[Finding]:
    """Variables that commands would refuse, a finding for each; the cluster of ``RAY_ADDRESS`` must
    answer."""
    return verdicts.judge_environment(find_faults("training", *ray_groups()))


def check_ray() -> Finding:
    """Whether Ray can be imported; it is not started."""
    import ray

    address = cluster_address()
    found = (
        f"imports; would join the cluster at {address}"
        if address
        else "imports; would start on this machine"
    )
    return Finding(name="ray runtime", level="ok", found=f"{ray.__version__} {found}")


def check_tracking(given: str | None = None) -> Finding:
    """Whether the MLflow store can be used, as every command finds out; MLflow, which takes seconds
    to import, is not needed for it, and nothing is created or changed."""
    uri = given or os.environ.get("MLFLOW_TRACKING_URI") or str(Path("mlflow.db").absolute())
    try:
        uri = store.tracking_uri(given)
        exists = store.check_store(uri, write=True)
        file = store.local_file(uri)
        if file is None:
            return verdicts.judge_tracking(uri, fault=None)
        if not exists:
            return verdicts.judge_tracking(uri, fault=None, new=True)
        store.check_contents(file)
        return verdicts.judge_tracking(uri, fault=None, moved_from=moved_from(file))
    except CorrFractalError as exc:
        return verdicts.judge_tracking(uri, fault=str(exc))


def check_folder(out: Path) -> Finding:
    """Whether a file can be made in ``out``, or in the nearest folder above it that exists."""
    folder = _existing(out.absolute())
    try:
        with tempfile.TemporaryFile(dir=folder):
            return Finding(name="out folder", level="ok", found=f"{folder} can be written")
    except OSError as exc:
        return verdicts.judge_unwritable(folder, str(exc.strerror or exc))


def check_disk(out: Path) -> Finding:
    """Room where work is written, and where Ray spills."""
    ray = shutil.disk_usage(tempfile.gettempdir())
    return verdicts.judge_disk(
        shutil.disk_usage(_existing(out.absolute())).free, ray.used / ray.total
    )


def check_shared_memory() -> Finding:
    """Size of ``/dev/shm``, where Ray keeps its object store."""
    path = Path("/dev/shm")
    return verdicts.judge_shared_memory(shutil.disk_usage(path).total if path.is_dir() else None)


def check_open_files() -> Finding:
    """The limit of open files; Ray raises the soft one to the hard one."""
    return verdicts.judge_open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def _guarded(name: str, check: Callable[[], Finding]) -> Finding:
    """Whatever a broken library raises is a finding, not the end of the examination."""
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
        advice="install the parts again from requirements.lock",
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
    """``path``, or the nearest folder above it that exists."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
