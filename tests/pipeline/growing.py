"""A folder of tiny real videos that a test changes, and builds of it in this process."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.config import PipelineConfig
from pipeline.report.build_result import Changes
from pipeline.run import preview
from tests.local_build import LocalBuild, run_build, stored_files


@dataclass
class Growing:
    """Videos in one folder and their shards in another.

    Attributes:
        root: of both, and of builds from nothing.
        config: how to build.
        pool: contents of different videos, by number.
        fresh: files of builds from nothing, by the files and configuration they were built from.
    """

    root: Path
    config: PipelineConfig
    pool: tuple[bytes, ...]
    fresh: dict[str, dict[str, bytes]] = field(default_factory=dict)

    @property
    def videos(self) -> Path:
        return self.root / "videos"

    @property
    def out(self) -> Path:
        return self.root / "shards"

    def lay(self, layout: Mapping[str, int]) -> None:
        """Make the folder contain these videos only: numbers in the pool, by name. Files that have
        their contents already are not touched."""
        self.videos.mkdir(exist_ok=True)
        for path in list(self.videos.rglob("*")):
            if path.is_file() and path.relative_to(self.videos).as_posix() not in layout:
                path.unlink()
        for name, number in layout.items():
            path = self.videos / name
            path.parent.mkdir(exist_ok=True)
            if not path.exists() or path.read_bytes() != self.pool[number]:
                path.write_bytes(self.pool[number])

    def build(self, *, retry_quarantined: bool = False) -> LocalBuild:
        """Build the shards of what the folder contains now."""
        return run_build([self.videos], self.out, self.config, retry_quarantined=retry_quarantined)

    def changes(self) -> Changes:
        """What a dry run says."""
        return preview([str(self.videos)], self.out, self.config)

    def files(self) -> dict[str, bytes]:
        """Every file of the shards but the state."""
        return stored_files(self.out)

    def from_nothing(self) -> dict[str, bytes]:
        """The files that a first build of the same videos writes."""
        parts = [repr(self.config)]
        for path in sorted(self.videos.rglob("*")):
            if path.is_file():
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                parts.append(f"{path.relative_to(self.videos)} {digest}")
            elif path.is_symlink():
                parts.append(f"{path.relative_to(self.videos)} -> {path.readlink()}")
        key = "\n".join(parts)
        if key not in self.fresh:
            folder = self.root / f"fresh-{len(self.fresh)}"
            run_build([self.videos], folder, self.config)
            self.fresh[key] = stored_files(folder)
        return self.fresh[key]
