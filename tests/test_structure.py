"""The direction of imports and the limits of size: the plan of the house, checked."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = {  # a part may import those below it; the folder's own files are free among themselves
    **dict.fromkeys(("cli",), 6),
    **dict.fromkeys(("serve", "frontend", "bench", "ray_serve"), 5),
    **dict.fromkeys(("rest", "rpc", "client", "loading", "precompile"), 4),
    **dict.fromkeys(("control", "extensions", "plane"), 3),
}
MAX_LINES, MAX_FUNCTION_LINES = 300, 60
FRONTEND_MAY_IMPORT = (  # what names begin with
    *(
        "service",
        "compiler",
        "protos",
        "numpy",
        "msgspec",
        "orjson",
        "click",
        "uvloop",
        "uvicorn",
        "httptools",
        "anyio",
    ),
    *("pydantic", "typing_", "annotated_types", "google", "grpc", "cython_runtime"),
)
# With the first request that needs them: pages and metadata, reflection. Or never: only the parent reads model.yaml.
FRONTEND_IMPORTS_LATER = (
    *("fastapi", "starlette", "service.rest.pages", "grpc_reflection.", "google.protobuf.descriptor_pb2", "yaml"),
    *("service.yaml_file", "service.repository.config", "service.repository.schema", "service.repository.storage"),
)


def sources() -> list[Path]:
    return [path for folder in ("service", "compiler") for path in sorted((ROOT / folder).rglob("*.py"))]


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_direction_of_imports(path: Path) -> None:
    parts = path.relative_to(ROOT).with_suffix("").parts
    for module in imports(path):
        top, *rest = module.split(".")
        if parts[0] == "compiler":
            assert top not in ("service", "protos"), f"compiler knows nothing of {module}"
        if top == "protos":
            assert parts[1] in ("rpc", "client"), "only rpc and client speak protobuf"
        if top == "service" and rest and rest[0] in LAYERS and rest[0] != parts[1]:
            own = LAYERS.get(parts[1], 2)
            assert LAYERS[rest[0]] <= own, f"{path.name} is below {module}"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small_and_say_what_they_are(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= MAX_LINES
    tree = ast.parse(text)
    if text.strip():
        assert ast.get_docstring(tree), "a file opens with what it does"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < MAX_FUNCTION_LINES, node.name


@pytest.mark.parametrize(
    "module",
    [
        *("service.cli", "service.serve", "service.frontend", "service.observe.sidecar", "service.bench.process"),
        *("service.engine.steps.worker", "service.ray_serve.ingress", "service.ray_serve.replica"),
    ],
)
def test_parent_frontend_sidecar_and_load_import_no_torch(module: str) -> None:
    program = f"import sys, {module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_frontend_imports_no_package_that_it_does_not_need() -> None:
    """There may be one for every few cores: what one imports, each holds."""
    program = "import sys, service.frontend; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    others = {name for name in done.stdout.split() if not name.startswith(("_", *FRONTEND_MAY_IMPORT))}
    assert others - sys.stdlib_module_names == set()


def test_a_frontend_starts_without_what_only_some_requests_need() -> None:
    """A sixth of what it would hold; of the compiler it needs the values alone."""
    program = "import sys, service.frontend; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    names = done.stdout.split()
    assert [name for name in names if name.startswith(FRONTEND_IMPORTS_LATER)] == []
    assert {name for name in names if name.startswith("compiler")} == {"compiler", "compiler.spec"}


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=lambda path: path.stem)
def test_no_test_imports_the_stubs_of_others(path: Path) -> None:
    """tritonclient.grpc and protos name the same messages: one process takes one of them."""
    module = "tritonclient.grpc"
    assert module not in {*imports(path)}
    assert f'importorskip("{module}' not in path.read_text()
