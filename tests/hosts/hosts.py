"""Hosts on one machine: each has processes, mounts, shared memory, a name and a network interface
of its own.

They are joined by a bridge, at which whoever made them is one more machine. What they share is the
file system but for ``/tmp``, ``/dev/shm`` and the home. Run within ``enter.sh``. Linux
namespaces(7), veth(4), ip-link(8).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).parents[2]
NETWORK = "10.77.0"
CLIENT = f"{NETWORK}.254"

UNSHARE = "unshare --net --mount --pid --uts --ipc --fork --kill-child --mount-proc".split()  # noqa: SIM905
INIT = """
set -e
mkdir -p "$0/tmp/home"
case "$1" in /tmp/*) mkdir -p "$0$1"; mount --bind "$1" "$0$1";; esac
mount --rbind "$0/tmp" /tmp
mount -t tmpfs -o size=1g tmpfs /dev/shm
hostname "$2"
touch /tmp/ready
while :; do sleep 1000 || :; done
"""

T = TypeVar("T")


@dataclass(eq=False)
class Host:
    """A host at the bridge. Its first process, ``init``, only waits; when it is killed all others
    of the host die."""

    name: str
    address: str
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    init: int = 0
    services: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (ready := self.folder / "tmp" / "ready").unlink(missing_ok=True)
        self._holder = subprocess.Popen(
            [*UNSHARE, "bash", "-c", INIT, str(self.folder), str(ROOT), self.name],
            preexec_fn=_die_with_parent,
        )
        self.init = until(lambda: _child(self._holder.pid), 10, f"{self.name} to exist")
        until(ready.exists, 10, f"the mounts of {self.name}")
        run(
            "ip",
            "link",
            "add",
            self.name,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            str(self.init),
        )
        run("ip", "link", "set", self.name, "master", "bridge", "up")
        self._ip("link", "set", "lo", "up")
        self._ip("addr", "add", f"{self.address}/24", "dev", "eth0")
        self._ip("link", "set", "eth0", "up")

    def stop(self) -> None:
        """End everything that runs here."""
        os.kill(self.init, signal.SIGKILL)
        for process in (self._holder, *self.services.values()):
            process.wait()

    def command(self, *arguments: str) -> list[str]:
        """The command line that runs a command here; its environment is ``settings``."""
        return [*f"nsenter -t {self.init} -n -m -p -u -i --".split(), *arguments]

    def settings(self) -> dict[str, str]:
        """The environment of everything that runs here. Secrets come through it: all see a
        command's arguments."""
        kept = {
            k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "RAY_", "PYTEST_"))
        }
        return {
            **kept,
            "HOME": "/tmp/home",
            "TMPDIR": "/tmp",
            "PYTHONPATH": str(ROOT),
            **self.environment,
        }

    def serve(self, service: str, *arguments: str, **environment: str) -> None:
        """Start a service; its output goes to ``SERVICE.log`` in the host's folder."""
        with (self.folder / f"{service}.log").open("ab") as log:
            self.services[service] = subprocess.Popen(
                self.command(*arguments), env={**self.settings(), **environment}, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, preexec_fn=_die_with_parent,
            )  # fmt: skip

    def run(self, *arguments: str, **environment: str) -> str:
        """Run a command to its end; what it printed."""
        return run(*self.command(*arguments), environment={**self.settings(), **environment})

    def processes(self) -> dict[int, str]:
        """Process ids, as seen from outside, and command lines of all that runs here."""
        here, found = Path(f"/proc/{self.init}/ns/pid").readlink(), {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with contextlib.suppress(OSError):
                    if (folder / "ns/pid").readlink() == here:
                        found[int(folder.name)] = (
                            (folder / "cmdline").read_text().replace("\0", " ").strip()
                        )
        return found

    def runs(self, what: str) -> list[int]:
        """Ids of the processes here with ``what`` in their command line."""
        return [pid for pid, line in self.processes().items() if what in line]

    def kill(self, what: str) -> int:
        """SIGKILL to the processes here with ``what`` in their command line; how many those were."""
        found = self.runs(what)
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(found)

    def kill_all(self) -> None:
        """SIGKILL to everything that runs here."""
        for pid in self.processes():
            if pid != self.init:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for service in self.services.values():
            service.wait()

    def cut(self) -> None:
        """Pull the plug: nothing goes in or out."""
        self._ip("link", "set", "eth0", "down")

    def mend(self) -> None:
        """Put the plug back."""
        self._ip("link", "set", "eth0", "up")

    def _ip(self, *arguments: str) -> None:
        run("nsenter", "-t", str(self.init), "-n", "ip", *arguments)

    def listeners(self) -> set[tuple[str, int, str]]:
        """Address, port and program of everything here that listens on TCP."""
        found = set()
        for line in self.run("ss", "-Hltnp").splitlines():
            address, port = line.split()[3].rsplit(":", 1)
            program = line.split('"')[1] if '"' in line else "?"
            found.add((address.strip("[]").removeprefix("::ffff:"), int(port), program))
        return found


def make_bridge() -> None:
    """The bridge, with this process's own address on it."""
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "bridge", "type", "bridge")
    run("ip", "addr", "add", f"{CLIENT}/24", "dev", "bridge")
    run("ip", "link", "set", "bridge", "up")


def run(*command: str, environment: Mapping[str, str] | None = None) -> str:
    """Run a command; what it printed. Fails with that if the command does."""
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, (command, done.returncode, done.stdout, done.stderr)
    return done.stdout


def until(look: Callable[[], T], seconds: float, what: str) -> T:
    """What ``look`` returns as soon as that counts as true."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain for {what}"
        time.sleep(0.1)
    return found


def _child(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int((Path(f"/proc/{pid}/task/{pid}/children").read_text().split() or ["0"])[0])
    return 0


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
