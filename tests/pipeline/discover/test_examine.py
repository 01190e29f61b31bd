from __future__ import annotations

from pathlib import Path

from pipeline.discover.examine import EQUAL_BATCH, equal_batches, read_equal
from pipeline.discover.source_table import Source
from pipeline.discover.work_plan import Known


def source(path: Path | str, size: int) -> Source:
    return Source(uri=str(path), path=str(path), bytes=size, stamp="1")


def test_batches_hold_several_sizes_and_never_split_one():
    sources = [source(f"{number:03d}", 1000 + number // 2) for number in range(200)]
    sources += [source("alone", 7)]
    batches = list(equal_batches(sources, {}))
    assert sum(len(batch) for batch in batches) == 200
    assert len(batches) == 200 // EQUAL_BATCH + 1
    sizes = [{member.bytes for member in batch} for batch in batches]
    assert sum(len(found) for found in sizes) == len(set.union(*sizes)) == 100


def test_a_group_whose_contents_are_all_known_is_not_read():
    sources = [source("a", 9), source("b", 9), source("c", 8), source("d", 8)]
    known = {"a": Known(sha256="1"), "b": Known(sha256="2"), "c": Known(sha256="3")}
    assert list(equal_batches(sources, known)) == [sources[2:]]


def test_copies_are_found_within_a_batch_of_several_sizes(tmp_path):
    contents = {"a": b"x" * 100, "b": b"x" * 100, "c": b"y" * 100, "d": b"x" * 99, "e": b"x" * 99}
    sources = []
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
        sources.append(source(tmp_path / name, len(data)))
    found = read_equal(sources)
    assert {Path(uri).name for uri in found} == {"a", "b", "d", "e"}
    assert len({known.sha256 for known in found.values()}) == 2
