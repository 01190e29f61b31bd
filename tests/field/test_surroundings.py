"""Variables, addresses, streams and paths that cannot work: a sentence within seconds, and finished
work stays done."""

from __future__ import annotations

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from corrfractal.__main__ import main
from corrfractal.common.foreign_errors import describe_error
from corrfractal.runtime.surroundings import crash_faults, find_faults, ray_groups

COMMAND = str(Path(sys.executable).parent / "corrfractal")
ROOT = Path(__file__).parents[2]

WORK = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import click
import time
from corrfractal.common.console import command, progress, say
from corrfractal.runtime.streams import prepare_streams

@click.command()
@click.option("--seconds", default=0.0)
@command
def work(seconds):
    with progress("work", 2) as advance:
        for _ in range(2):
            say("\\u00e9 \\udcff")
            advance(1)
    say("started")
    time.sleep(seconds)
    return {{"name": "\\udcff"}}

prepare_streams()
work()
"""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A script with a command that prints, and returns a name that is not UTF-8."""
    path = tmp_path / "work.py"
    path.write_text(WORK, encoding="utf-8")
    return path


REDIRECTIONS = (
    ">&-", "2>&-", "<&-", ">&- 2>&- <&-", ">/dev/full", "2>/dev/full", ">/dev/full 2>&1", "| head -0", "2>&1 | head -1",
    "--json >&-", "--json >/dev/full", "--json 2>&-", "--json | head -0",
)  # fmt: skip


@pytest.mark.parametrize("redirection", REDIRECTIONS)
def test_a_stream_that_takes_nothing_costs_finished_work_no_exit_code(
    work: Path, redirection: str
) -> None:
    line = f"set -o pipefail; {sys.executable} {work} {redirection}"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=60, errors="replace"
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0"},
    ],
)
def test_a_character_that_a_stream_cannot_show_stops_nothing(
    work: Path, variables: dict[str, str]
) -> None:
    done = subprocess.run([sys.executable, str(work), "--json"], env=variables, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"name": "\udcff"}


def test_a_closed_standard_output_is_not_given_to_the_next_file(tmp_path: Path) -> None:
    code = (
        f"import os, sys; sys.path.insert(0, {str(ROOT)!r}); from corrfractal.runtime.streams import "
        "prepare_streams\n"
        f"prepare_streams(); file = open({str(tmp_path / 'video')!r}, 'w'); os.write(1, b'what a "
        "library prints')"
    )
    subprocess.run(
        ["bash", "-c", 'exec "$0" -c "$1" >&-', sys.executable, code], check=True, timeout=60
    )
    assert (tmp_path / "video").read_bytes() == b""


def test_the_end_of_the_terminal_stops_a_command_unless_nohup_keeps_it(work: Path) -> None:
    for prefix, expected in (((), 130), (("nohup",), 0)):
        line = [*prefix, sys.executable, str(work), "--seconds", "1"]
        with subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, preexec_fn=_hear_hang_ups
        ) as child:
            assert child.stdout is not None
            while child.stdout.readline() != b"started\n":
                pass
            child.send_signal(signal.SIGHUP)
            assert child.wait(30) == expected


def _hear_hang_ups() -> None:
    """For a suite that was itself started by nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def web_server() -> Iterator[str]:
    """HOST:PORT of a server that speaks HTTP/1, as Ray's dashboard does."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def _dead() -> str:
    """An address at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("RAY_ADDRESS", "garbage", "no address"),
        ("RAY_ADDRESS", "http://127.0.0.1:8265", "no address"),
        ("RAY_ADDRESS", "127.0.0.1:99999", "no valid port"),
        ("RAY_ADDRESS", "DEAD", "does not answer"),
        ("RAY_ADDRESS", "a..b:6379", "does not answer"),
        ("RAY_TMPDIR", "relative", "relative"),
        ("RAY_TMPDIR", "/tmp/" + "long" * 25, "too long for the sockets"),
        ("TMPDIR", "/tmp/" + "long" * 25, "too long for the sockets"),
        ("RAY_TMPDIR", "/proc", "cannot be written"),
        ("RAY_TMPDIR", "/dev/null", "cannot be written"),
        ("HOME", "/proc", "cannot be written"),
        ("RAY_AUTH_MODE", "tokens", "nothing would be authenticated"),
        ("RAY_AUTH_TOKEN", "a b", "no token"),
        ("RAY_AUTH_TOKEN_PATH", "/proc/none", "cannot be read"),
        ("RAY_AUTH_TOKEN_PATH", "/dev/null", "holds no token"),
        ("RAY_USE_TLS", "1", "RAY_TLS_SERVER_CERT"),
        ("RAY_REDIS_ADDRESS", "DEAD", "does not answer"),
        ("RAY_OVERRIDE_RESOURCES", "garbage", "no JSON"),
        ("RAY_RUNTIME_ENV_HOOK", "no_such_module.hook", "not installed"),
        ("NUMBA_DISABLE_JIT", "1", "uncompiled"),
        ("NUMBA_NUM_THREADS", "0", "less than 1"),
        ("PYTHONOPTIMIZE", "2", "docstrings"),
        ("PYTHONWARNINGS", "error", "every warning"),
        ("GLOO_SOCKET_IFNAME", "nosuch0", "no network interface"),
        ("MLFLOW_HTTP_REQUEST_TIMEOUT", "abc", "no whole number"),
    ],
)
def test_a_variable_that_cannot_work_is_found_within_seconds_with_what_to_change(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    for name in (
        "RAY_ADDRESS",
        "RAY_TMPDIR",
        "RAY_AUTH_TOKEN",
        "RAY_AUTH_TOKEN_PATH",
        "RAY_AUTH_MODE",
    ):
        monkeypatch.delenv(name, raising=False)
    assert find_faults("any", "training", *ray_groups()) == []
    monkeypatch.setenv(variable, _dead() if value == "DEAD" else value)
    started = time.monotonic()
    (fault,) = find_faults("any", "training", *ray_groups())
    assert time.monotonic() - started < 15
    assert fault.name == variable
    assert said in fault.found
    assert fault.advice


@pytest.mark.parametrize("value", ["", " ", "local"])
def test_an_address_that_names_no_cluster_means_this_machine(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", value)
    assert ray_groups() == ("ray", "private ray")


def test_the_port_of_a_dashboard_is_not_taken_for_that_of_a_head(
    monkeypatch: pytest.MonkeyPatch, web_server: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", web_server)
    (fault,) = find_faults(*ray_groups())
    assert "not of Ray" in fault.found


def test_a_head_that_runs_is_recognised(monkeypatch: pytest.MonkeyPatch, ray_session: None) -> None:
    import ray

    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    assert find_faults(*ray_groups()) == []


@pytest.mark.parametrize(
    "variable",
    ["RAY_memory_monitor_refresh_ms", "OPENCV_IO_MAX_IMAGE_PIXELS", "OPENCV_FOR_THREADS_NUM"],
)
def test_a_setting_that_crashes_a_library_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "abc")
    (fault,) = crash_faults()
    assert variable in fault.name


def test_precompute_with_a_dead_cluster_ends_with_one_sentence(
    tiny_video: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [COMMAND, "precompute", str(tiny_video), "--out", str(tmp_path / "s")],
        env=os.environ | {"RAY_ADDRESS": _dead()}, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: RAY_ADDRESS: ")
    assert "Traceback" not in done.stderr


def test_a_store_that_does_not_answer_is_reported_before_the_work(
    tiny_video: Path, tmp_path: Path
) -> None:
    line = [
        "precompute",
        str(tiny_video),
        "--out",
        str(tmp_path / "s"),
        "--tracking-uri",
        f"http://{_dead()}",
    ]
    done = CliRunner().invoke(main, line)
    assert done.exit_code == 1
    assert "did not answer" in done.output
    assert not (tmp_path / "s").exists()


def test_a_store_that_fails_after_the_work_costs_finished_shards_no_exit_code(
    tiny_video: Path,
    tmp_path: Path,
    ray_session: None,
    web_server: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "unused")  # MLflow sets it; restored after the test
    line = [
        "precompute",
        str(tiny_video),
        "--out",
        str(tmp_path / "s"),
        "--tracking-uri",
        f"http://{web_server}",
    ]
    done = CliRunner().invoke(main, line)
    assert done.exit_code == 0, done.output
    assert "could not be logged to MLflow: " in done.output
    assert (tmp_path / "s" / "manifest.json").exists()


def test_a_pipe_or_a_device_is_refused_where_a_file_is_named(
    tmp_path: Path, tiny_video: Path
) -> None:
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)
    for line in (
        ["plan", pipe],
        ["plan", str(tiny_video), "--config", pipe],
        ["plan", str(tiny_video), "--config", "/dev/zero"],
        ["run", pipe],
        ["inspect", str(tmp_path), "--html", pipe],
        ["propagate", str(tiny_video), "--mask", pipe, "--out", str(tmp_path / "o")],
        ["train", pipe, "--out", str(tmp_path / "o"), "--dry-run"],
    ):
        done = CliRunner().invoke(main, line)
        assert done.exit_code == 2, line
        assert "is a pipe or a device" in done.output
    assert Path(pipe).is_fifo()


@pytest.mark.parametrize(
    "line", [["plan", ""], ["inspect", "x", "--html", ""], ["precompute", "x", "--out="]]
)
def test_an_empty_argument_is_not_taken_for_the_working_folder(line: list[str]) -> None:
    done = CliRunner().invoke(main, line)
    assert done.exit_code == 2
    assert "an argument is empty" in done.output


def test_a_tilde_that_the_shell_left_means_the_home_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert f"{tmp_path}/nowhere" in CliRunner().invoke(main, ["inspect", "~/nowhere"]).output


def test_a_working_folder_that_was_deleted_is_named_as_the_reason(tmp_path: Path) -> None:
    line = f"mkdir {tmp_path}/gone && cd {tmp_path}/gone && rmdir {tmp_path}/gone && exec {COMMAND} plan /x.mp4"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "the working folder was deleted" in done.stderr


def _raised(call: Callable[[], object]) -> BaseException:
    try:
        call()
    except BaseException as exc:
        return exc
    raise AssertionError("nothing was raised")


def test_errors_of_libraries_are_one_sentence_that_says_what_to_do() -> None:
    import botocore.exceptions
    import ray.exceptions
    import torch
    from safetensors import safe_open

    for exc in (
        _raised(lambda: cv2.imdecode(np.zeros(0, np.uint8), 1)),
        _raised(lambda: json.loads("{")),
        _raised(lambda: tomllib.loads("[")),
        _raised(lambda: b"\xff".decode()),
        _raised(lambda: Path("a\0b").read_bytes()),
        _raised(lambda: zlib.decompress(b"x")),
        _raised(lambda: safe_open(__file__, "pt")),
        _raised(lambda: torch.empty(1 << 60)),
        _raised(lambda: socket.create_connection(("127.0.0.1", 1), timeout=1)),
        MemoryError(),
        RecursionError("maximum recursion depth exceeded"),
        botocore.exceptions.NoCredentialsError(),
        torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate"),
        ray.exceptions.RaySystemError("the raylet died"),
    ):
        said = describe_error(exc)
        assert "unexpected" not in said, exc
        assert "\n" not in said
        assert "; " in said
