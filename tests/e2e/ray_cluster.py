"""A Ray cluster of two nodes on this machine, with a Serve config deployed as `serve run` does it. Not a test.

    build/ray/bin/python tests/e2e/ray_cluster.py serve.yaml

Runs where Ray is installed, knows nothing of torchere. Each line on stdin is answered by a line of JSON: `status` the
state of each application and its replicas by node, `kill` ends the second node at once, `end` or no more input all.
"""

import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import ray
from ray import serve
from ray._private.state import actors  # the public list asks the dashboard, which is not there
from ray.cluster_utils import Cluster

MEMORY = 150 * 2**20  # of each node's object store
REPLICA = "SERVE_REPLICA::"
CORES = 8  # as Ray counts them: they do not bind


def status() -> dict[str, object]:
    """Of each application, and of each deployment: how many replicas run, and on which nodes they are."""
    homes: dict[str, list[str]] = {}
    for actor in actors(actor_state_name="ALIVE").values():
        if actor["Name"].startswith(REPLICA):  # SERVE_REPLICA::application#deployment#id
            homes.setdefault(actor["Name"].removeprefix(REPLICA).rpartition("#")[0], []).append(
                actor["Address"]["NodeID"]
            )
    return {
        application: {
            "status": state.status,
            "message": state.message,
            "deployments": {
                name: {
                    "status": deployment.status,
                    "message": deployment.message,
                    "running": deployment.replica_states.get("RUNNING", 0),
                    "nodes": homes.get(f"{application}#{name}", []),
                }
                for name, deployment in state.deployments.items()
            },
        }
        for application, state in serve.status().applications.items()
    }


def main(config: str, folder: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Ray prints what it thinks of lost nodes

    def answer(value: object) -> None:
        print(json.dumps(value), file=answers, flush=True)

    # Where Ray notes the cluster's address, whatever temp_dir says; it takes for granted that the folder is there.
    Path("/tmp/ray").mkdir(exist_ok=True)
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": CORES,
            "object_store_memory": MEMORY,
            "include_dashboard": False,
            "resources": {"head": 100},
            "temp_dir": folder,
        },
    )
    second = cluster.add_node(num_cpus=CORES, object_store_memory=MEMORY)
    try:
        ray.init(address=cluster.address, namespace="serve", log_to_driver=False, logging_level=logging.WARNING)
        command = [Path(sys.executable).with_name("serve"), "run", "--non-blocking", "--address", cluster.address]
        subprocess.run([*command, config], check=True, stdout=sys.stderr, stdin=subprocess.DEVNULL)
        answer({"head": ray.get_runtime_context().get_node_id()})
        for line in sys.stdin:
            match line.strip():
                case "status":
                    answer(status())
                case "kill":
                    cluster.remove_node(second, allow_graceful=False)
                    answer({"killed": second.node_id})
                case "end":
                    break
    finally:
        ray.shutdown()
        cluster.shutdown()  # the processes, whatever they do: to take the application down first takes half a minute


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as sessions:
        main(sys.argv[1], sessions)
