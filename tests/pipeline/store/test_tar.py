from __future__ import annotations

import io
import subprocess
import sys
import tarfile

import pytest

from corrfractal.shards.clip import read_members
from pipeline.store.tar import TarWriter

A = {"a.json": b"{}", "a.jpg": b"x" * 700}
B = {"b.json": b"[]", "b.png": b""}


def written(*groups):
    file = io.BytesIO()
    tar = TarWriter(file)
    places = [(tar.position, tar.add(group)) for group in groups]
    tar.close()
    return file.getvalue(), places


def test_any_tar_reader_finds_the_members():
    data, _ = written(A, B)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert {m.name: tar.extractfile(m).read() for m in tar} == A | B
        assert {(m.mtime, m.uid, m.uname, m.mode) for m in tar} == {(0, 0, "", 0o644)}
    assert len(data) % tarfile.RECORDSIZE == 0


def test_a_sample_is_read_from_its_own_bytes():
    data, places = written(A, B)
    assert [read_members(data[offset : offset + length]) for offset, length in places] == [A, B]


def test_what_was_rewound_leaves_no_trace():
    file = io.BytesIO()
    tar = TarWriter(file)
    tar.add(A)
    mark = tar.position
    tar.add(B)
    tar.rewind(mark)
    tar.add(B)
    tar.close()
    assert file.getvalue() == written(A, B)[0]


def test_an_archive_without_members_is_one_too():
    with tarfile.open(fileobj=io.BytesIO(written()[0])) as tar:
        assert tar.getnames() == []


@pytest.mark.parametrize("name", ["a.b", "clip-é.0.jpg", "x" * 98 + ".y", "folder/" * 20 + "x.y"])
@pytest.mark.parametrize("size", [0, 1, 123_456])
def test_every_header_is_the_one_that_tarfile_writes(name, size):
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    data, _ = written({name: bytes(size)})
    assert data[: tarfile.BLOCKSIZE] == info.tobuf(tarfile.USTAR_FORMAT)


def test_writing_a_tar_imports_no_torch_and_leaves_webdataset_importable():
    code = (
        "import io, sys; from pipeline.store.tar import TarWriter, _archive_class\n"
        "TarWriter(io.BytesIO()).add({'a.json': b'{}'}); assert 'torch' not in sys.modules\n"
        "import inspect, webdataset\n"
        "assert inspect.getsource(_archive_class()) == inspect.getsource(webdataset.TarWriter)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
