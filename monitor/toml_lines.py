"""On which line of a TOML text each key is; tomllib does not say."""

import re
import tomllib
from collections.abc import Iterator
from typing import Any

KeyPath = tuple[str | int, ...]
"""Of a key: tables by name, elements of an array of tables by index from 0."""

# Strings and comments, in which brackets, equal signs and ends of line mean nothing; then what means something.
_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"""+|\'\'\'.*?\'\'\'+|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|#[^\n]*|[\n\[\]{}=]|[^\n\[\]{}="\'#]+',
    re.S,
)


def key_lines(text: str) -> dict[KeyPath, int]:
    """Find the line, from 1, of each table and key that has one of its own.

    Args:
        text: Valid TOML. What is inside an inline table or an array is on the line of the key that holds it.
    """
    lines: dict[KeyPath, int] = {}
    elements: dict[KeyPath, int] = {}
    table: KeyPath = ()
    for line, head, is_header in _statements(text):
        if not is_header:
            _note(lines, (*table, *_path(f"{head} = 0", elements, table)), line)
            continue
        table = _path(head, elements)
        if head.startswith("[["):
            elements[table] = elements.get(table, -1) + 1
            lines.setdefault(table, line)
            table = (*table, elements[table])
        _note(lines, table, line)
    return lines


def _note(lines: dict[KeyPath, int], path: KeyPath, line: int) -> None:
    for length in range(1, len(path) + 1):
        lines.setdefault(path[:length], line)


def _statements(text: str) -> Iterator[tuple[int, str, bool]]:
    """Find each header and each key: its line, its text, whether it is a header."""
    line = begun = 1
    depth, head, in_value = 0, "", False
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token == "\n" and depth == 0:
            if head.strip() and not in_value:
                yield begun, head.strip(), True
            head, in_value = "", False
        elif token == "=" and depth == 0 and not in_value:
            yield begun, head.strip(), False
            in_value = True
        elif token[0] == "#":
            continue
        else:
            depth += (token in {"[", "{"}) - (token in {"]", "}"})
            if not head.strip():
                begun = line
            if not in_value:
                head += token
        line += token.count("\n")
    if head.strip() and not in_value:
        yield begun, head.strip(), True


def _path(toml: str, elements: dict[KeyPath, int], table: KeyPath = ()) -> KeyPath:
    """The names in a header or in a key, as TOML reads them; a name of an array of tables is followed by its last."""
    value: Any = tomllib.loads(toml)
    names: KeyPath = ()
    while isinstance(value, dict | list) and value:
        if isinstance(value, list):
            value = value[0]
            continue
        if (*table, *names) in elements:
            names = (*names, elements[*table, *names])
        name, value = next(iter(value.items()))
        names = (*names, name)
    return names
