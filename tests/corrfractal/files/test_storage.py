from __future__ import annotations

import hashlib

import pytest

from corrfractal.common.errors import CallError
from corrfractal.files import storage


@pytest.fixture(params=["local", "s3"])
def folder(request, tmp_path, s3):
    """A folder that does not exist yet, local or in a bucket of a real server."""
    return str(tmp_path / "folder") if request.param == "local" else f"{s3}/{tmp_path.name}"


def test_what_is_written_is_read_listed_hashed_and_removed(folder, tmp_path):
    storage.make_folder(folder)
    storage.write(storage.join(folder, "a.json"), b"first")
    storage.write(storage.join(folder, "a.json"), b"second")
    (tmp_path / "made").write_bytes(b"third")
    storage.put(tmp_path / "made", storage.join(folder, "b.tar"))
    assert not (tmp_path / "made").exists()
    assert storage.listing(folder) == (["a.json", "b.tar"], [])
    assert storage.read(storage.join(folder, "a.json")) == b"second"
    assert storage.sha256(storage.join(folder, "b.tar")) == hashlib.sha256(b"third").hexdigest()
    storage.remove(storage.join(folder, "a.json"))
    storage.remove(storage.join(folder, "never.json"))
    assert storage.listing(folder) == (["b.tar"], [])


def test_kinds_are_told_apart(folder):
    storage.make_folder(folder)
    storage.write(storage.join(folder, "a.json"), b"x")
    assert storage.kind(folder) == "folder"
    assert storage.kind(storage.join(folder, "a.json")) == "file"
    assert storage.kind(storage.join(folder, "none")) is None


def test_patterns_reach_into_folders(folder):
    for sub in ("x", "y"):
        storage.make_folder(storage.join(folder, sub))
        storage.write(storage.join(folder, f"{sub}/v.mp4"), b"x")
    wanted = [storage.join(folder, "x/v.mp4"), storage.join(folder, "y/v.mp4")]
    assert storage.matches(storage.join(folder, "**/*.mp4")) == wanted
    assert storage.matches(storage.join(folder, "*/v.mp4")) == wanted
    assert storage.listing(folder) == ([], ["x", "y"])


def test_a_local_copy_has_the_contents_and_does_not_stay(folder):
    storage.make_folder(folder)
    storage.write(storage.join(folder, "0.png"), b"zero")
    storage.write(storage.join(folder, "1.png"), b"one")
    with storage.local_copy(storage.join(folder, "0.png")) as path:
        assert (path.name, path.read_bytes()) == ("0.png", b"zero")
    with storage.local_copy(folder) as copy:
        assert {p.name: p.read_bytes() for p in copy.iterdir()} == {
            "0.png": b"zero",
            "1.png": b"one",
        }
    assert path.exists() == (not storage.is_uri(folder)) == copy.exists()


def test_what_is_missing_is_not_found(folder):
    for read in (storage.read, storage.sha256):
        with pytest.raises(FileNotFoundError, match=r"none\.tar"):
            read(storage.join(folder, "none.tar"))


def test_a_bucket_that_is_missing_is_told_when_the_folder_is_made(s3):
    with pytest.raises(FileNotFoundError, match="no such file or bucket"):
        storage.make_folder("s3://no-such-bucket/shards")


def test_a_store_out_of_reach_is_an_oserror_that_names_the_location(s3, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "")
    with pytest.raises(OSError, match="cannot reach weird://x/y"):
        storage.read("weird://x/y")


@pytest.mark.parametrize(
    "location", ["https://me:hunter2@host/v.mp4", "s3://key:hunter2@bucket/shards"]
)
def test_a_password_in_a_uri_is_refused_and_not_repeated(location):
    for use in (storage.read, storage.kind, storage.make_folder):
        with pytest.raises(CallError, match="leave the password out") as refused:
            use(location)
        assert "hunter2" not in str(refused.value)


def test_a_missing_driver_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(OSError, match=r"gs://x/y needs gcsfs: pip install gcsfs"):
        storage.read("gs://x/y")


def test_a_store_out_of_reach_is_not_taken_for_a_missing_bucket(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(OSError, match="cannot reach s3://bucket/out"):
            storage.make_folder("s3://bucket/out")
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
