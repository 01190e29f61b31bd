"""The window of tasks. The cluster with a second node runs in a process of its own: this one has a
Ray session already."""

from __future__ import annotations

import collections
import json
import subprocess
import sys
from pathlib import Path

import pytest

from corrfractal.files import storage
from corrfractal.runtime import ray_tasks
from corrfractal.runtime.ray_tasks import run_tasks

SMALL = {"num_cpus": 0.1}

GROWING = """
import collections, json, time
import ray
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.cluster_utils import Cluster
from corrfractal.runtime import ray_tasks

ray_tasks.LOOK_SECONDS = 0.5


def node(seconds):
    import ray, time

    time.sleep(seconds)
    return ray.get_runtime_context().get_node_id()


cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
ray.init(address=cluster.address, log_to_driver=False)
jobs = collections.deque(range(40))
taken = []
nodes = []
pending = 0
tasks = ray_tasks.run_tasks(
    node, jobs, lambda job: (0.5,), workers=None, options={"num_cpus": 1}
)
for ended in tasks:
    nodes.append(ended.result())
    taken.append(40 - len(jobs) - len(nodes))
    demand = get_cluster_status(cluster.address).resource_demands.ray_task_actor_demand
    counts = [bundle.count for request in demand for bundle in request.bundles_by_count]
    pending = max(pending, sum(counts))
    if len(nodes) == 3:
        cluster.add_node(num_cpus=2)
print(json.dumps({"nodes": len(set(nodes)), "first": taken[0], "most": max(taken), "pending": pending}))
ray.shutdown()
cluster.shutdown()
"""


def test_a_node_that_joins_in_mid_build_is_used_and_its_demand_was_visible():
    root = Path(__file__).parents[3]
    ended = subprocess.run(
        [sys.executable, "-c", GROWING], cwd=root, capture_output=True, text=True, timeout=240
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found["nodes"] == 2
    # One ended of the four of a CPU: two for it and the spare ones. With three CPUs it is eight.
    assert found["first"] == 3
    assert found["most"] == 7
    # What an autoscaler acts on.
    assert found["pending"] > 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_number_of_workers_is_a_limit(ray_session, monkeypatch, workers):
    monkeypatch.setattr(ray_tasks, "LOOK_SECONDS", 0.0)
    jobs = collections.deque(range(6))
    ended = 0
    for task in run_tasks(
        storage.parent, jobs, lambda job: (f"/{job}/x",), workers=workers, options=SMALL
    ):
        assert task.result() == f"/{task.job}"
        ended += 1
        assert 6 - len(jobs) - ended < workers
    assert ended == 6


def test_a_job_that_is_put_back_runs_again(ray_session):
    jobs = collections.deque([1, 2])
    seen = []
    for task in run_tasks(storage.parent, jobs, lambda _: ("/a/b",), workers=1, options=SMALL):
        seen.append(task.job)
        if seen == [1]:
            jobs.appendleft(1)
    assert seen == [1, 1, 2]
