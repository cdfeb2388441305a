"""Reads a YAML file that people wrote, keeping the line of every value; refuses what could harm or mislead.

Knows nothing of settings or models: `validation.py` turns what pydantic finds into sentences, with the lines from here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 256 * 1024  # a thousand inline labels take 20 KB; PyYAML needs a second for 256 KiB
MAX_VALUES = 100_000  # aliases repeat values: nine lines of them can stand for a billion
MAX_DEPTH = 20

Location = tuple[str | int, ...]

TEXT_TAG = "tag:yaml.org,2002:str"
TEXT_TAGS = (TEXT_TAG, "tag:yaml.org,2002:timestamp")  # nothing here is a date: 2024-01-31 is a name
SCALAR_TAGS = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float"))
PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


class YamlFault(Exception):
    """A file that cannot be read, and the line (from 1) where it goes wrong."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True)
class Document:
    """The mapping in a file. `lines` has the line of each key and list item by location: ("inputs", 0, "shape")."""

    values: dict[str, Any]
    lines: dict[Location, int]

    def line_of(self, location: Location) -> int:
        """The line of the value at `location`, or of the nearest one around it.

        >>> document.line_of(("inputs", 0, "datatype"))  # missing there: the line where input 0 begins
        """
        known: Location = ()
        for part in location:
            if (*known, part) in self.lines:
                known = (*known, part)
        return self.lines.get(known, 1)


def read_document(path: Path) -> Document:
    """The mapping in `path`; an empty file is an empty mapping. Raises YamlFault, or OSError."""
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise YamlFault(1, f"the file is larger than {MAX_BYTES // 1024} KiB: is it the right one?")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise YamlFault(line, f"byte 0x{data[error.start]:02x} is not UTF-8: save the file as UTF-8") from error
    try:
        return _Reader(text).read()
    except yaml.YAMLError as error:
        raise YamlFault(*_explain(error, text)) from error
    except RecursionError as error:
        raise YamlFault(1, f"the values are nested more than {MAX_DEPTH} deep") from error


class _Reader:
    """Builds plain values from nodes; scalars by PyYAML's safe rules, mappings and lists by stricter ones."""

    def __init__(self, text: str) -> None:
        self._loader = yaml.SafeLoader(text)
        self._lines: dict[Location, int] = {}
        self._left = MAX_VALUES

    def read(self) -> Document:
        node = self._loader.get_single_node()
        values = {} if node is None else self._build(node, ())
        if values is None:
            values = {}
        if not isinstance(values, dict):
            raise YamlFault(_line(node), "the file must hold `key: value` lines")
        return Document(values, self._lines)

    def _build(self, node: yaml.Node, at: Location) -> Any:
        self._left -= 1
        if self._left < 0:
            # Not the node's own line: an alias stands far from the node that it repeats.
            raise YamlFault(self._lines[at[:1]], f"the file holds more than {MAX_VALUES} values, aliases counted")
        if len(at) > MAX_DEPTH:
            raise YamlFault(_line(node), f"the values are nested more than {MAX_DEPTH} deep")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if node.tag not in PLAIN_TAGS:
            raise YamlFault(_line(node), f"the tag {node.tag} is not allowed: write a plain value")
        if isinstance(node, yaml.MappingNode):
            return dict(self._pairs(node, at))
        return [self._item(item, (*at, index)) for index, item in enumerate(node.value)]

    def _item(self, node: yaml.Node, at: Location) -> Any:
        self._lines[at] = _line(node)
        return self._build(node, at)

    def _pairs(self, node: yaml.MappingNode, at: Location) -> Iterator[tuple[str, Any]]:
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            if key_node.tag != TEXT_TAG:
                raise YamlFault(_line(key_node), f"the key {_source(key_node)} is not text: write a name, or quote it")
            key = key_node.value
            if key in seen:
                raise YamlFault(_line(key_node), f"the key '{key}' is here twice, first on line {seen[key]}: keep one")
            seen[key] = self._lines[*at, key] = _line(key_node)
            yield key, self._build(value_node, (*at, key))

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        if node.tag in TEXT_TAGS:
            return node.value
        if node.tag not in SCALAR_TAGS:
            raise YamlFault(_line(node), f"the tag {node.tag} is not allowed: write a plain value")
        try:
            return self._loader.construct_object(node)
        except (ValueError, KeyError, IndexError) as error:  # `!!bool maybe`, `!!int ""`, 0x_
            kind = node.tag.rpartition(":")[2]
            raise YamlFault(_line(node), f"{_source(node)} is no {kind}: quote it if it is text") from error


def _line(node: yaml.Node | None) -> int:
    return node.start_mark.line + 1 if node is not None and node.start_mark is not None else 1


def _source(node: yaml.Node) -> str:
    return repr(node.value) if isinstance(node, yaml.ScalarNode) else "that begins here"


def _explain(error: yaml.YAMLError, text: str) -> tuple[int, str]:
    """The line and a sentence for what PyYAML found."""
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return line, f"the character U+{ord(text[error.position]):04X} is not allowed in YAML: remove it"
    if not isinstance(error, yaml.MarkedYAMLError):
        return 1, f"this is not YAML: {error}"
    mark = error.problem_mark or error.context_mark
    remedy = ": indent with spaces, not tabs" if error.problem and "'\\t'" in error.problem else ""
    context = f" {error.context}" if error.context else ""
    return (mark.line + 1 if mark else 1), f"this is not YAML: {error.problem}{context}{remedy}"
