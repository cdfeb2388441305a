"""The code that came with a model: loaded once, called for each request; every error becomes one sentence.

Knows arrays and functions, no sockets. `worker.py` calls it in a process of steps, where anything may happen to it.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.engine.steps.messages import GENERATE, POSTPROCESS, PREPROCESS

FUNCTIONS = {PREPROCESS: "preprocess", POSTPROCESS: "postprocess", GENERATE: "generate"}
MAY_REFUSE = (
    PREPROCESS,
    GENERATE,
)  # what the client sent is all that these see, so a ValueError of theirs is its fault
FOLDERS = re.compile(r"(?<![\w./:])/(?:[^\s/'\":]+/)+")
MAX_SENTENCE = 300


class NotAStep(Exception):
    """A file that cannot be loaded, or has not the function it should have."""


def load_step(folder: Path, file: str) -> Callable[..., Any]:
    """The function of a step file. Raises NotAStep."""
    name = FUNCTIONS[file]
    spec = importlib.util.spec_from_file_location(name, folder / file)
    assert spec is not None, "a path that ends with .py has a loader"
    assert spec.loader is not None, "likewise"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # code may raise anything; it is translated here, once
        traceback.print_exc()
        raise NotAStep(f"{file}: {describe(error)}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise NotAStep(f"{file} has no function {name}(): write one")
    return _taking_two(function) if file == POSTPROCESS else function


def _taking_two(function: Callable[..., Any]) -> Callable[..., Any]:
    """postprocess(outputs) need not take the inputs too."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    if len([each for each in parameters if each.kind in kinds]) > 1:
        return function
    return lambda outputs, inputs: function(outputs)


def describe(error: BaseException) -> str:
    """`KeyError: 'x'`: the first line, without the folders of paths in it."""
    return f"{type(error).__name__}: {first_line(error)}".removesuffix(": ")


def first_line(error: BaseException) -> str:
    """What the error says, in one line that tells nothing of the machine."""
    line = str(error).strip().partition("\n")[0]
    return FOLDERS.sub("", line)[:MAX_SENTENCE]


def is_refusal(file: str, error: BaseException) -> bool:
    """Whether a step says by this error that the client's input is wrong."""
    return isinstance(error, ValueError) and file in MAY_REFUSE
