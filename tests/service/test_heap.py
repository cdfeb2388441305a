"""What a peak took is given back, though what lives on lies behind it."""

import subprocess
import sys

PROGRAM = """
from pathlib import Path
from service.heap import give_back

def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

peak, living = [], []
for _ in range(1000):
    peak.append(b"x" * 50_000)
    living.append(bytes(1000))
del peak
before = resident_mb()
assert give_back()
print(before - resident_mb())
"""


def test_what_is_free_amid_the_heap_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert float(done.stdout) > 30
