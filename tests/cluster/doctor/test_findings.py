"""Properties of the thresholds behind ``corrfractal doctor``."""

from __future__ import annotations

import pytest

from cluster.doctor.findings import (
    evaluate_cpu,
    evaluate_decoder,
    evaluate_disk,
    evaluate_faiss,
    evaluate_gpus,
    evaluate_open_files,
    evaluate_shared_memory,
    evaluate_tracking,
    evaluate_version,
)

GIB = 1 << 30


def test_a_part_below_its_floor_is_a_fault_that_names_the_floor() -> None:
    finding = evaluate_version("ray", "2.55.1")
    assert finding.level == "fault"
    assert "2.56" in finding.advice
    assert evaluate_version("ray", None).level == "fault"
    assert evaluate_version("ray", "2.60.0").level == "ok"
    assert evaluate_version("torch", "2.13.0+cpu").level == "ok"


@pytest.mark.parametrize(
    ("flavours", "gpus", "usable", "level"),
    [
        ([], 0, 0, "fault"),
        (["faiss-cpu"], 0, 0, "ok"),
        (["faiss-cpu"], 1, 0, "ok"),
        (["faiss-cpu", "faiss-gpu-cu12"], 0, 0, "fault"),
        (["faiss-cpu", "faiss-gpu-cu12"], 1, 1, "fault"),
        (["faiss-gpu-cu12"], 0, 0, "warn"),
        (["faiss-gpu-cu12"], 1, 0, "fault"),
        (["faiss-gpu-cu12"], 1, 1, "ok"),
    ],
)
def test_faiss_must_be_installed_once_and_fit_the_machine(
    flavours: list[str], gpus: int, usable: int, level: str
) -> None:
    assert evaluate_faiss(flavours, gpus, usable).level == level


@pytest.mark.parametrize(
    ("gpus", "usable", "cuda_build", "level"),
    [
        ([], 0, None, "ok"),
        ([], 0, "12.8", "ok"),
        (["H100"], 0, None, "warn"),
        (["H100"], 0, "12.8", "fault"),
        (["H100", "H100"], 1, "12.8", "warn"),
        (["H100"], 1, "12.8", "ok"),
        ([], 1, "12.8", "ok"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_reported(
    gpus: list[str], usable: int, cuda_build: str | None, level: str
) -> None:
    assert evaluate_gpus(gpus, usable, cuda_build).level == level


def test_a_decoder_that_loses_frames_or_garbles_them_is_a_fault() -> None:
    assert evaluate_decoder("decord", frames=12, expected=12, error=0.9).level == "ok"
    assert evaluate_decoder("decord", frames=11, expected=12, error=0.9).level == "fault"
    assert evaluate_decoder("decord", frames=12, expected=12, error=40.0).level == "fault"


def test_passwords_of_a_tracking_uri_are_not_shown() -> None:
    finding = evaluate_tracking("", fault="no connection to postgresql://me:secret@host/db")
    assert finding.level == "fault"
    assert "secret" not in finding.found
    assert "me:***@host" in finding.found


def test_small_machines_are_warned_and_tiny_ones_refused() -> None:
    assert evaluate_cpu(8, 32 * GIB).level == "ok"
    assert evaluate_cpu(1, 32 * GIB).level == "warn"
    assert evaluate_cpu(8, 2 * GIB).level == "fault"
    assert evaluate_disk(50 * GIB, 0.5).level == "ok"
    assert evaluate_disk(5 * GIB, 0.5).level == "warn"
    assert evaluate_disk(50 * GIB, 0.97).level == "warn"
    assert evaluate_disk(GIB // 2, 0.5).level == "fault"
    assert evaluate_shared_memory(64 << 20).level == "warn"
    assert evaluate_shared_memory(2 * GIB).level == "ok"
    assert evaluate_shared_memory(None).level == "ok"
    assert evaluate_open_files(512).level == "fault"
    assert evaluate_open_files(4096).level == "warn"
    assert evaluate_open_files(-1).level == "ok"


def test_every_warning_and_fault_says_what_to_do() -> None:
    findings = [
        evaluate_version("ray", None),
        evaluate_cpu(1, GIB),
        evaluate_gpus(["H100"], 0, None),
        evaluate_faiss([], 0, 0),
        evaluate_decoder("decord", 0, 12, 0.0),
        evaluate_tracking("file:///x", fault="gone"),
        evaluate_disk(0, 0.0),
        evaluate_shared_memory(0),
        evaluate_open_files(0),
    ]
    assert all(finding.level != "ok" and finding.advice for finding in findings)
