"""Stores that change under a build, and names of every kind: nothing is lost, and the next build is
that of a build from nothing."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

import tests.local_build
from corrfractal.shards.index import Index
from corrfractal.shards.manifest import Manifest, load_manifest
from tests.local_build import plan_build, run_build, stored_files
from tests.pipeline.growing import Growing

NAMES = (
    "with space.mp4",
    "per%20cent.mp4",
    "a+b&c=d.mp4",
    "ünïcode-日本.mp4",
    "quo'te\".mp4",
    "-dash.mp4",
)


@dataclass
class Bucket:
    """Videos below a prefix of a bucket, and builds of them."""

    growing: Growing
    location: str
    prefix: str

    def put(self, name: str, contents: bytes) -> None:
        boto3.client("s3").put_object(Bucket="bucket", Key=f"{self.prefix}/{name}", Body=contents)

    def remove(self, name: str) -> None:
        boto3.client("s3").delete_object(Bucket="bucket", Key=f"{self.prefix}/{name}")

    def build(self, out: Path | None = None) -> Manifest:
        out = out or self.growing.out
        return run_build([self.location], out, self.growing.config).manifest

    def pending(self) -> int:
        """Shards that the next build would make."""
        plan = plan_build([self.location], self.growing.out, self.growing.config)
        return len(plan[1].pending)

    def is_as_from_nothing(self) -> bool:
        fresh = self.growing.root / uuid.uuid4().hex
        self.build(fresh)
        return stored_files(self.growing.out) == stored_files(fresh)

    def rows(self) -> dict[str, dict[str, Any]]:
        table = Index(self.growing.out, load_manifest(self.growing.out)).source_table
        return {row["uri"]: row for row in table.to_pylist()}


@pytest.fixture
def bucket(s3: str, growing: Growing) -> Iterator[Bucket]:
    prefix = f"hostile-{uuid.uuid4().hex}"
    made = Bucket(growing, f"{s3}/{prefix}", prefix)
    for number, name in enumerate(("a.mp4", "b.mp4", "c.mp4")):
        made.put(name, growing.pool[number])
    yield made
    client = boto3.client("s3")
    found = client.list_objects_v2(Bucket="bucket", Prefix=prefix).get("Contents", [])
    for item in found:
        client.delete_object(Bucket="bucket", Key=item["Key"])


def before_the_first_task(patch: pytest.MonkeyPatch, change: Callable[[], None]) -> None:
    """Call ``change`` once, between the plan and the first read."""
    real = tests.local_build.make_shard
    waiting = [change]

    def changing(*arguments: Any) -> Any:
        if waiting:
            waiting.pop()()
        return real(*arguments)

    patch.setattr(tests.local_build, "make_shard", changing)


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_names_of_every_kind_are_built_once_and_keep_their_names(
    place: str, bucket: Bucket, growing: Growing
) -> None:
    names = NAMES
    if place == "bucket":
        for number, name in enumerate(NAMES, start=3):
            bucket.put(name, growing.pool[number])
        bucket.build()
        assert bucket.pending() == 0
    else:
        # The test server of the S3 protocol refuses keys with a line end.
        names = (*NAMES[1:], "new\nline.mp4")
        growing.lay({name: number for number, name in enumerate(names, start=3)})
        growing.build()
        assert growing.changes().pending == 0
    rows = bucket.rows()
    assert {rows[name]["outcome"] for name in names} == {"sampled"}


def test_an_object_that_is_replaced_between_listing_and_reading_is_stored_as_what_was_read(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        before_the_first_task(patch, lambda: bucket.put("a.mp4", bucket.growing.pool[7]))
        bucket.build()
    assert bucket.is_as_from_nothing()
    # Its stamp is the one of the listing, so the next build looks at it again, and makes nothing.
    assert bucket.pending() == 1
    bucket.build()
    assert bucket.is_as_from_nothing()
    assert bucket.pending() == 0


def test_an_object_that_is_removed_before_it_is_read_goes_with_the_next_build(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        before_the_first_task(patch, lambda: bucket.remove("b.mp4"))
        bucket.build()
    assert bucket.rows()["b.mp4"]["reason"] == "the file was moved or removed after it was listed"
    bucket.build()
    assert "b.mp4" not in bucket.rows()
    assert bucket.is_as_from_nothing()


def test_an_object_that_arrives_while_the_bucket_is_built_is_new_to_the_next_build(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        before_the_first_task(patch, lambda: bucket.put("d.mp4", bucket.growing.pool[5]))
        bucket.build()
    assert "d.mp4" not in bucket.rows()
    bucket.build()
    assert bucket.rows()["d.mp4"]["outcome"] == "sampled"
    assert bucket.is_as_from_nothing()


def test_an_object_without_a_byte_is_quarantined_until_it_is_complete(bucket: Bucket) -> None:
    bucket.put("b.mp4", b"")
    bucket.put("d.mp4", b"")
    bucket.build()
    rows = bucket.rows()
    assert {rows[name]["outcome"] for name in ("b.mp4", "d.mp4")} == {"quarantined"}
    assert bucket.pending() == 0
    bucket.put("b.mp4", bucket.growing.pool[1])
    bucket.build()
    assert bucket.rows()["b.mp4"]["outcome"] == "sampled"
    assert bucket.is_as_from_nothing()
