"""A builder killed by SIGKILL at any point leaves a cache from which the next one builds or takes a sound artifact.

The points are counted in lines of Python that the builder runs, so that every run tries the same ones.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

from compiler.cache import Cache
from tests.compiler.artifacts import KEY, make_artifact

POINTS = 40
SEED = 3

# Forks one builder for each point. It has no threads, so that a fork is a clean copy.
KILLER = """
import json, os, signal, sys
from pathlib import Path
from compiler.cache import Cache
from tests.compiler.artifacts import KEY, make_artifact

def build_and_die(root, point):
    left = point
    def count(frame, event, argument):
        nonlocal left
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return count
    sys.settrace(count)
    Cache(root, max_bytes=1).get_or_build(KEY, make_artifact)
    sys.settrace(None)
    return point - left

def run(root, point):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, str(build_and_die(root, point)).encode())
        os._exit(0)
    os.close(writer)
    told = os.read(reader, 100).decode()
    os.close(reader)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), told

root = Path(sys.argv[1])
match sys.argv[2:]:
    case ["count"]:
        print(run(root / "whole", 10**9)[1])
    case ["kill", points]:
        for point in json.loads(points):
            print(point, run(root / str(point), point)[0])
"""


def run(root: Path, *arguments: str) -> list[str]:
    command = [sys.executable, "-c", KILLER, str(root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    return done.stdout.splitlines()


def test_a_builder_killed_at_any_point_corrupts_nothing(tmp_path: Path) -> None:
    (total,) = run(tmp_path, "count")
    points = sorted(random.Random(SEED).sample(range(1, int(total)), POINTS))
    statuses = [line.split() for line in run(tmp_path, "kill", json.dumps(points))]
    assert [status for _, status in statuses] == ["-9"] * POINTS
    published = 0
    for point in points:
        cache = Cache(tmp_path / str(point))
        assert [cache.verify(entry.key) for entry in cache.list()] in ([], [None]), point
        published += len(cache.list())
        folder, _, cached = cache.get_or_build(KEY, make_artifact)
        assert (folder / "model.ts").read_bytes() == b"weights"
        assert cached or list((cache.root / ".builds").iterdir()) == [], "the ruin is cleared away"
    assert 0 < published < POINTS, "some died before they published, and some after"
