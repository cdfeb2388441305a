"""Checks a .pt2 before torch.export opens it: no pickle but one of plain tensors, and no text that would be run.

torch.export.load unpickles what a file asks it to, and falls back to unpickling anything where the safe way fails; it
evaluates expressions of sizes, looks operators up by path, and writes names into code that it runs. Here each of these
is held to what torch.export.save writes. Runs in builder processes, called by `load.py`; `archive.py` checks the zip.
"""

from __future__ import annotations

import ast
import functools
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compiler.archive import Archive, check_names, check_stored, open_archive
from compiler.errors import LoadFailed

MAX_JSON_BYTES = 512 * 1024 * 1024  # a program of 10,000 operators is 20 MB
MAX_INPUT_BYTES = 2 * 1024**3
MAX_TEXT = 10_000  # characters of one expression

MEMBERS = re.compile(
    r"models/model\.json|data/weights/(weight_\d+|model_weights_config\.json)|data/sample_inputs/model\.pt"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)|extra/[^/].*"
    r"|archive_format|archive_version|byteorder|version|\.data/(version|serialization_id)"
)
INPUTS = re.compile(r"data\.pkl|data/\d+|version|byteorder|\.data/\w+|\.format_version|\.storage_alignment")
PAYLOADS = {  # the list of tensors, the folder, their names there
    "data/weights/model_weights_config.json": ("data/weights/", re.compile(r"weight_\d+")),
    "data/constants/model_constants_config.json": ("data/constants/", re.compile(r"tensor_\d+")),
}
# torch.ops.namespace.operator.overload; the three are functions of torch.ops itself, from_file reads any file.
OPERATOR = re.compile(
    r"torch\.ops\.(?!__|load_library|import_module|loaded_libraries)\w+"
    r"\.(?!__|from_file)\w+(\.(?!__)\w+)?|torch\.ops\.aten\.__i?(and|or|xor|lshift|rshift)__\.\w+"
    r"|_operator\.(eq|ne|le|ge|lt|gt|neg|pos|mul|add|sub|floordiv|mod|pow|truediv|and_|or_|lshift|rshift|getitem|not_)"
    r"|math\.(?!__)\w+|torch\._?sym_\w+"
)
QUOTED = re.compile(r"[\w.+-]*")
EXPRESSION = (
    *(ast.Expression, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.Call, ast.Tuple),
    *(ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.operator, ast.unaryop, ast.boolop, ast.cmpop),
)
RESAVE = "open it where it was made and save it again with torch.export.save of torch 2.11 or later"


def check_program(path: Path) -> None:
    """Raises LoadFailed, as a sentence that follows the file's name, for anything torch.export.save would not write."""
    with open_archive(path) as archive:
        _check_age(archive)
        check_names(archive, MEMBERS, "torch.export.save")
        check_stored(archive)
        for name, (folder, pattern) in PAYLOADS.items():
            for key, payload in _read_payloads(archive, name).items():
                _check_payload(archive, key, payload, folder, pattern)
        _check_document(_read_json(archive, "models/model.json"))
        _check_inputs(archive.read("data/sample_inputs/model.pt", MAX_INPUT_BYTES))


def _check_age(archive: Archive) -> None:
    names = archive.members
    if any(name.startswith("data/aotinductor/") for name in names):
        raise LoadFailed("holds compiled machine code, not a program: save the program with torch.export.save")
    models = sorted(name for name in names if name.startswith("models/") and name != "models/model.json")
    if models:
        raise LoadFailed(f"holds '{models[0][:100]}' beside its program: save one program in each file")
    if "models/model.json" not in names or {"data/weights/model.pt", "data/constants/model.pt"} & set(names):
        raise LoadFailed(f"is a program in an older format, which is a pickle, or none: {RESAVE}")
    if archive.read("archive_format", 16) != b"pt2":
        raise LoadFailed(f"is not a program of torch.export: {RESAVE}")


def _read_json(archive: Archive, name: str) -> dict[str, Any]:
    document = json.loads(archive.read(name, MAX_JSON_BYTES))
    if not isinstance(document, dict):
        raise LoadFailed(f"has no mapping in '{name}': {RESAVE}")
    return document


def _read_payloads(archive: Archive, name: str) -> dict[str, Any]:
    config = _read_json(archive, name).get("config")
    if not isinstance(config, dict):
        raise LoadFailed(f"has no list of tensors in '{name}': {RESAVE}")
    return config


def _check_payload(archive: Archive, key: str, payload: Any, folder: str, pattern: re.Pattern[str]) -> None:
    path = payload.get("path_name") if isinstance(payload, dict) else None
    if not isinstance(path, str) or payload.get("use_pickle") is not False:
        raise LoadFailed(
            f"keeps '{key[:100]}' as a pickle: only plain tensors can be opened; replace quantised or other special "
            "tensors by plain ones before torch.export.export"
        )
    if not pattern.fullmatch(path) or folder + path not in archive.members:
        raise LoadFailed(f"keeps '{key[:100]}' in '{path[:100]}', which is no tensor in the file: {RESAVE}")
    sizes = (payload.get("tensor_meta") or {}).get("sizes") or []
    is_empty = any(size.get("as_int") == 0 for size in sizes)
    if not archive.members[folder + path].file_size and not is_empty:
        raise LoadFailed(f"has no values for '{key[:100]}': it was not saved whole")


def _check_document(document: dict[str, Any]) -> None:
    """Every text of a program by the key under which it stands."""
    waiting: list[tuple[str, Any]] = list(document.items())
    while waiting:
        key, value = waiting.pop()
        if key == "as_custom_obj" and value:
            raise LoadFailed("holds an object that is no tensor: export the model without custom classes")
        if isinstance(value, dict):
            # What stands in metadata is for people: where a node came from.
            waiting += [(inner, item) for inner, item in value.items() if inner != "metadata"]
        elif isinstance(value, list):
            waiting += [(key, item) for item in value]
        elif isinstance(value, str) and key in CHECKS:
            CHECKS[key](value)


@functools.lru_cache(maxsize=10_000)  # the same size stands at every operator
def _check_expression(text: str) -> None:
    """sympy evaluates it: numbers, symbols and sympy's own classes only."""
    for node in ast.walk(_parse(text)):
        is_known = isinstance(node, EXPRESSION) and _is_harmless(node)
        if isinstance(node, ast.Call):
            is_known = isinstance(node.func, ast.Name) and node.func.id in _sympy_classes()
        if not is_known:
            raise LoadFailed(f"has the expression {text[:100]!r}, which is no size: {RESAVE}")


def _parse(text: str) -> ast.Expression:
    if len(text) > MAX_TEXT:
        raise LoadFailed(f"has an expression of {len(text)} characters: {RESAVE}")
    try:
        return ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise LoadFailed(f"has the expression {text[:100]!r}, which cannot be read: {RESAVE}") from error


def _is_harmless(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return not isinstance(node.value, str | bytes) or (
            isinstance(node.value, str) and QUOTED.fullmatch(node.value) is not None
        )
    return not isinstance(node, ast.Name) or "__" not in node.id


@functools.cache
def _sympy_classes() -> frozenset[str]:
    """The names that may be called in an expression: sympy's classes of expressions and torch's own."""
    import sympy  # type: ignore[import-untyped]
    from torch.utils._sympy import functions

    return frozenset(
        name
        for module in (sympy, functions)
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, sympy.Basic) and name != "Lambda"
    )


def _check_operator(text: str) -> None:
    if not OPERATOR.fullmatch(text):
        raise LoadFailed(f"calls '{text[:100]}', which is no operator: {RESAVE}")


def _check_name(text: str) -> None:
    """torch writes names into Python code, as they stand."""
    if text and not text.isidentifier():
        raise LoadFailed(f"has the name {text[:100]!r}, which is none: {RESAVE}")


def _check_tree(text: str) -> None:
    """How inputs and outputs are nested: the names of keyword arguments are written into code as well."""
    waiting = [(0, json.loads(text)[1])]
    while waiting:
        depth, spec = waiting.pop()
        if spec["type"] == "collections.defaultdict":
            raise LoadFailed("takes or gives a defaultdict, which imports what it names: use a dict")
        if depth == 1 and spec["type"] == "builtins.dict":
            for name in json.loads(spec["context"]):
                _check_name(name)
        waiting += [(depth + 1, child) for child in spec["children_spec"]]


CHECKS: dict[str, Callable[[str], None]] = {
    "expr_str": _check_expression,
    "target": _check_operator,
    "as_operator": _check_operator,
    "name": _check_name,
    "as_name": _check_name,
    "forward_arg_names": _check_name,
    "in_spec": _check_tree,
}


def _check_inputs(data: bytes) -> None:
    """The one pickle: opened here in the safe way first, so that torch.export.load never takes the other."""
    import torch

    if not data:  # saved without examples
        return
    try:
        with open_archive(data) as archive:
            check_names(archive, INPUTS, "torch.save")
            check_stored(archive)
    except LoadFailed as error:
        raise LoadFailed(f"has example inputs that cannot be opened safely, in a member that {error}") from error
    try:
        torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        raise LoadFailed(
            "has example inputs that are more than plain tensors, and opening them would run code: export the model "
            "with tensors, lists, tuples and dicts as inputs, or set program.example_inputs = None before saving it"
        ) from error
