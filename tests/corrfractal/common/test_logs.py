"""What a command logs, as its user sees it: streams, levels, labels, and the progress bar."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from click.testing import CliRunner

from corrfractal.__main__ import COMMANDS, main
from corrfractal.common.logs import configure_logging, show_forwarded

ROOT = Path(__file__).parents[3]

WORK = f"""
import logging
import sys
sys.path.insert(0, {str(ROOT)!r})
import click
from corrfractal.common.console import command, progress, say

log = logging.getLogger("pipeline.work")
library = logging.getLogger("urllib3.connectionpool")

@click.command()
@command
def work():
    with progress("videos", 2) as advance:
        log.debug("reads a header")
        log.info("resuming from step 3")
        advance(1)
        log.warning("the store is at %s", "http://me:secret@host/")
        library.info("a new connection")
        library.warning("retrying")
        advance(1)
    say("2 videos")
    return {{"videos": 2}}

work()
"""
PROGRESS = "videos: 2/2 in 0 s"


def run(tmp_path: Path, *options: str) -> tuple[list[str], list[str]]:
    """Lines of standard output and of standard error."""
    script = tmp_path / "work.py"
    script.write_text(WORK)
    done = subprocess.run(
        [sys.executable, str(script), *options], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines(), done.stderr.splitlines()


def test_messages_are_plain_lines_and_warnings_go_to_standard_error(tmp_path: Path) -> None:
    stdout, stderr = run(tmp_path)
    assert stdout == ["resuming from step 3", "2 videos"]
    assert stderr == [
        "warning: the store is at http://me:***@host/",
        "warning: urllib3.connectionpool: retrying",
        PROGRESS,
    ]


@pytest.mark.parametrize("option", ["-q", "--quiet"])
def test_quiet_leaves_the_result_and_warnings(tmp_path: Path, option: str) -> None:
    stdout, stderr = run(tmp_path, option)
    assert stdout == ["2 videos"]
    assert [line.split(":")[0] for line in stderr] == ["warning", "warning"]


@pytest.mark.parametrize("option", ["-v", "--verbose"])
def test_verbose_adds_details_time_and_logger(tmp_path: Path, option: str) -> None:
    stdout, stderr = run(tmp_path, option)
    stderr.remove(PROGRESS)
    time = r"\d\d:\d\d:\d\d"
    assert re.fullmatch(rf"{time} info pipeline\.work: resuming from step 3", stdout[0])
    assert stdout[1:] == ["2 videos"]
    expected = (
        "debug pipeline.work: reads a header",
        "warning pipeline.work: the store is at http://me:***@host/",
        "info urllib3.connectionpool: a new connection",
        "warning urllib3.connectionpool: retrying",
    )
    assert [re.sub(rf"^{time} ", "", line) for line in stderr] == list(expected)


@pytest.mark.parametrize("options", [(), ("--quiet",), ("--verbose",)])
def test_with_json_standard_output_is_one_object(tmp_path: Path, options: tuple[str, ...]) -> None:
    stdout, stderr = run(tmp_path, "--json", *options)
    assert json.loads("\n".join(stdout)) == {"videos": 2}
    assert any("warning" in line and "the store is at" in line for line in stderr)
    assert ("resuming from step 3" in "\n".join(stderr)) == (options != ("--quiet",))


def test_verbose_and_quiet_exclude_each_other(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["inspect", str(tmp_path), "-v", "-q"])
    assert done.exit_code == 2
    assert "exclude each other" in done.output


def test_every_command_has_the_options() -> None:
    def leaves(command: object, name: str) -> list[tuple[str, object]]:
        commands = getattr(command, "commands", None)
        if commands is None:
            return [(name, command)]
        return [leaf for sub in commands for leaf in leaves(commands[sub], f"{name} {sub}")]

    for top in COMMANDS:
        for name, command in leaves(main.get_command(None, top), top):  # type: ignore[attr-defined]
            options = {option for param in command.params for option in param.opts}  # type: ignore[attr-defined]
            assert {"--json", "--verbose", "-v", "--quiet", "-q", "--debug"} <= options, name


def test_log_lines_are_printed_above_the_bar_of_a_terminal(tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(WORK)
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=slave,
        stderr=slave,
        env={**environment, "TERM": "xterm"},
    )
    os.close(slave)
    written = b""
    while True:
        try:
            block = os.read(master, 65536)
        except OSError:  # Linux, once no writer is left
            break
        if not block:
            break
        written += block
    os.close(master)
    assert process.wait() == 0

    # What stays on the screen: a line that is erased (ESC[2K) is drawn again below.
    screen = []
    for line in written.decode().replace("\r\n", "\n").split("\n"):
        last = re.split(r"\x1b\[2K", line)[-1]
        screen.append(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", last).strip())
    lines = [line for line in screen if line]
    assert lines[0] == "resuming from step 3"
    assert lines[1] == "warning: the store is at http://me:***@host/"
    assert lines[2] == "warning: urllib3.connectionpool: retrying"
    assert re.match(r"videos ━+ 2/2", lines[3])
    assert lines[4:] == ["2 videos"]


WORKER = f"""
import logging
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from corrfractal.common.logs import configure_logging, forwarded_records, set_process_label

configure_logging()
set_process_label("rank 1 @ host")
log = logging.getLogger("training.worker")
with forwarded_records(Path(sys.argv[1])):
    log.info("100 % of it")
    log.warning("the disk is full")
log.warning("not forwarded")
"""


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING])
def test_records_of_a_worker_reach_the_user_with_rank_host_and_level(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], level: int
) -> None:
    file = tmp_path / "messages.log"
    subprocess.run([sys.executable, "-c", WORKER, str(file)], check=True, stdout=subprocess.DEVNULL)
    configure_logging(level)
    try:
        for line in [*file.read_text().splitlines(), '{"name": "half a li']:
            show_forwarded(line)
    finally:
        configure_logging()
    shown = capsys.readouterr()
    assert shown.out == ("[rank 1 @ host] 100 % of it\n" if level == logging.INFO else "")
    assert shown.err == "warning: [rank 1 @ host] the disk is full\n"
