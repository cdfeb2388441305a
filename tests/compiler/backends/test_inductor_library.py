"""What AOTInductor compiled, called by its C interface; built once by torch, in a process of its own."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest
import torch

from compiler.backends import inductor
from compiler.backends.inductor_library import CompiledLibrary, is_callable
from compiler.jobs import Interface
from compiler.tools import find_cxx

pytestmark = pytest.mark.skipif(find_cxx() is None, reason="needs a C++ compiler")

WIDTH = 256
BUILD = f"""
import sys
import torch

class Two(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.other = torch.nn.Linear({WIDTH}, {WIDTH}), torch.nn.Linear({WIDTH}, 3)

    def forward(self, x, y):
        for _ in range(4):
            x = torch.relu(self.one(x))
        return self.other(x + y), x.sum(1)

torch.manual_seed(0)
rows = {{0: torch.export.Dim("rows", min=1, max=100_000)}}
config = {{"aot_inductor.precompile_headers": False}}
with torch.no_grad():
    inputs = (torch.zeros(8, {WIDTH}), torch.zeros(8, {WIDTH}))
    program = torch.export.export(Two().eval(), inputs, dynamic_shapes=(rows, rows))
    torch._inductor.aoti_compile_and_package(program, package_path=sys.argv[1], inductor_configs=config)
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    package = tmp_path_factory.mktemp("package") / "two.pt2"
    subprocess.run([sys.executable, "-W", "ignore", "-c", BUILD, str(package)], check=True, capture_output=True)
    return package


def expected(package: Path, *inputs: torch.Tensor) -> list[torch.Tensor]:
    """What torch's own loader answers."""
    loader = torch._C._aoti.AOTIModelPackageLoader(str(package), "model", False, 1, -1)
    return list(loader.boxed_run(list(inputs)))


def test_it_answers_as_torch_s_own_loader_for_any_number_of_rows(package: Path) -> None:
    library = CompiledLibrary(package)
    for rows in (1, 5, 8, 64):
        x, y = torch.randn(rows, WIDTH), torch.randn(rows, WIDTH)
        answers = library((x, y))
        for answer, right in zip(answers, expected(package, x, y), strict=True):
            assert torch.equal(answer, right)


def test_inputs_and_answers_are_freed(package: Path) -> None:
    library = CompiledLibrary(package)
    x, y = torch.randn(2000, WIDTH), torch.randn(2000, WIDTH)
    library((x, y))
    before = resident()
    for _ in range(50):
        library((x, y))
    assert resident() - before < 25 * x.nbytes


def test_what_does_not_fit_is_refused_with_the_reason(package: Path) -> None:
    library = CompiledLibrary(package)
    x = torch.randn(2, WIDTH)
    with pytest.raises(RuntimeError, match="1 tensors for a compiled model that takes 2"):
        library((x,))
    with pytest.raises(RuntimeError, match="the compiled model failed"):
        library((x[:, :7].contiguous(), x))
    assert library((x, x))[0].shape == (2, 3)


def test_other_threads_run_while_it_computes(package: Path) -> None:
    library = CompiledLibrary(package)
    x = torch.randn(60_000, WIDTH)
    began, ended = threading.Event(), threading.Event()
    times: list[float] = []

    def call() -> None:
        began.set()
        times.append(time.perf_counter())
        library((x, x))
        times.append(time.perf_counter())
        ended.set()

    thread = threading.Thread(target=call)
    thread.start()
    began.wait()
    seen = []
    while not ended.is_set():
        seen.append(time.perf_counter())
    thread.join()
    first, last = times
    middle = [moment for moment in seen if first + (last - first) / 4 < moment < last - (last - first) / 4]
    assert middle, "somebody looked at the clock in the midst of it"


def test_an_instance_that_is_gone_leaves_nothing_mapped(package: Path) -> None:
    before = mapped()

    def serve() -> None:
        CompiledLibrary(package)((torch.randn(3, WIDTH), torch.randn(3, WIDTH)))

    for _ in range(3):
        thread = threading.Thread(target=serve)
        thread.start()
        thread.join()
        gc.collect()
    # A library is held by the threads that it ran on, and is let go when the next is closed: at most the last stays.
    assert mapped() - before <= 1


def test_operators_that_the_library_lacks_are_left_to_torch_s_loader(package: Path, tmp_path: Path) -> None:
    path = shutil.copy(package, tmp_path / inductor.FILE_NAME)
    assert is_callable(path)
    with zipfile.ZipFile(path, "a") as archive:
        library = next(name for name in archive.namelist() if name.endswith(".so"))
        archive.writestr(library.replace(".so", ".json"), '{"nodes": []}')
    assert not is_callable(path)
    x = torch.randn(4, WIDTH)
    answers = inductor.load(tmp_path, Interface((), (), 0, ()), "cpu")((x, x))
    assert [tuple(answer.shape) for answer in answers] == [(4, 3), (4,)]
    assert all(map(torch.equal, answers, CompiledLibrary(package)((x, x))))


def test_a_package_that_is_none(tmp_path: Path) -> None:
    empty, garbage, text = tmp_path / "empty.pt2", tmp_path / "garbage.pt2", tmp_path / "text.pt2"
    text.write_text("no archive")
    for refuse in (is_callable, CompiledLibrary):
        with pytest.raises(RuntimeError, match=r"text\.pt2 is no package of AOTInductor: File is not a zip file"):
            refuse(text)
    with zipfile.ZipFile(empty, "w") as archive:
        archive.writestr("model/version", "1")
    with pytest.raises(RuntimeError, match=r"empty\.pt2 holds 0 libraries: it is to be compiled again"):
        CompiledLibrary(empty)
    with zipfile.ZipFile(garbage, "w") as archive:
        archive.writestr("model/x.wrapper.so", b"\x7fELF but not really")
    with pytest.raises(RuntimeError, match="the compiled library cannot be opened: "):
        CompiledLibrary(garbage)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def mapped() -> int:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return len({line.split()[4] for line in lines if "torchere-aoti-" in line})  # by their numbers on the disk
