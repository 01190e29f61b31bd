"""One writer at a time in a folder of a store, whoever dies."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from corrfractal.common.errors import CorrFractalError
from corrfractal.files import lease, storage
from corrfractal.files.lease import Lease, LeaseLostError


@pytest.fixture(params=["s3", "memory"])
def folder(request: pytest.FixtureRequest, s3: str, tmp_path: Path) -> str:
    """A folder of a store that compares and writes in one step, and of one that cannot."""
    return f"{s3 if request.param == 's3' else 'memory://bucket'}/{tmp_path.name}"


def owner(folder: str) -> dict[str, object]:
    return json.loads(storage.read(storage.join(folder, lease.OWNER)))


def abandon(held: Lease) -> None:
    """End a holder as a kill does: it neither renews nor gives up."""
    held._end.set()
    held._thread.join()


def test_a_file_is_written_only_over_the_state_that_was_read(folder: str) -> None:
    location = storage.join(folder, "file")
    assert storage.write_if(location, b"1", None)
    assert not storage.write_if(location, b"2", None)
    stamp = storage.file_fact(location)[1]
    assert storage.write_if(location, b"three", stamp)
    assert not storage.write_if(location, b"4", stamp)
    assert storage.read(location) == b"three"
    storage.remove(location)
    assert not storage.write_if(location, b"5", stamp)
    assert storage.kind(location) is None


def test_a_living_holder_is_named_and_a_released_lease_is_free_at_once(folder: str) -> None:
    with Lease(folder, "training", seconds=1.5) as first:
        expected = rf"another training is writing to {folder} \(process \d+ on .*, since .*\)"
        with (
            pytest.raises(CorrFractalError, match=expected),
            Lease(folder, "training", seconds=1.5),
        ):
            pass
        first.check()
    started = time.monotonic()
    with Lease(folder, "training", seconds=60) as second:
        second.check()
    assert time.monotonic() - started < 5


def test_the_lease_of_a_dead_holder_is_taken_over_after_its_end_and_not_before(
    folder: str,
) -> None:
    with Lease(folder, "training", seconds=1.0) as dead:
        abandon(dead)
        started = time.monotonic()
        with Lease(folder, "training", seconds=1.0) as heir:
            assert time.monotonic() - started >= 1.0
            heir.check()
            # Whoever was only cut off from the store learns it before it publishes anything.
            with pytest.raises(LeaseLostError, match="was taken over by another training"):
                dead.check()
        assert owner(folder)["attempt"] == heir._own.attempt
    assert owner(folder)["attempt"] == heir._own.attempt, "the dead one released nothing"


def test_a_lease_that_ended_long_ago_is_taken_at_once(folder: str) -> None:
    with Lease(folder, "training", seconds=60) as dead:
        abandon(dead)
        ended = {**owner(folder), "expires": time.time() - lease.CLOCK_MARGIN - 1}
        storage.write(storage.join(folder, lease.OWNER), json.dumps(ended).encode())
        started = time.monotonic()
        with Lease(folder, "training", seconds=60):
            assert time.monotonic() - started < 5


def test_one_group_passes_the_lease_on_at_once(folder: str) -> None:
    with (
        Lease(folder, "training", "driver", seconds=60) as driver,
        Lease(folder, "training", "driver", seconds=60) as worker,
    ):
        worker.check()
        with pytest.raises(LeaseLostError):
            driver.check()


def test_a_holder_renews_its_lease(folder: str) -> None:
    with Lease(folder, "training", seconds=0.3):
        first = owner(folder)["expires"]
        deadline = time.monotonic() + 10
        while owner(folder)["expires"] == first:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_of_many_at_once_one_holds_the_lease_at_a_time(s3: str, tmp_path: Path) -> None:
    folder = f"{s3}/{tmp_path.name}"
    inside = threading.Lock()
    order = []

    def work(number: int) -> None:
        with Lease(folder, "training", seconds=20) as held:
            held.check()
            assert inside.acquire(blocking=False)
            order.append(number)
            inside.release()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(order) == [0, 1, 2, 3]


def test_a_file_in_its_place_that_is_no_lease_is_named(folder: str) -> None:
    storage.write(storage.join(folder, lease.OWNER), b"{}")
    with pytest.raises(CorrFractalError, match=r"owner\.json does not name the holder"):
        Lease(folder, "training").__enter__()
