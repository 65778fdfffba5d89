"""JSON and XML from others, looked at before a parser that calls itself goes as deep as they wish.

Python's end at the interpreter's recursion limit, where whatever else happens to run (a finalizer) fails too.
"""

import json
import re
from typing import Any
from xml.parsers import expat

_DEEPEST = 32

# Strings are passed over whole, so that brackets in them do not count. One that never ends is the parser's to refuse.
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)


def read_json(text: str, *, deepest: int = _DEEPEST) -> Any:
    """Parse JSON that may be hostile.

    Args:
        text: From somebody else.
        deepest: Objects and arrays within one another.

    Returns:
        What it holds.

    Raises:
        ValueError: It is not JSON, or goes deeper.
    """
    depth = 0
    for token in _TOKENS.finditer(text):
        first = token[0][0]
        if first in "[{":
            depth += 1
            if depth > deepest:
                raise ValueError(f"nested more than {deepest} deep at character {token.start()}")
        elif first != '"':
            depth -= 1
    return json.loads(text)


def check_xml(text: str, *, deepest: int = _DEEPEST) -> None:
    """Refuse XML that goes deep.

    Args:
        text: From somebody else.
        deepest: Elements within one another.

    Raises:
        ValueError: It is not well-formed, or goes deeper.
    """
    depth = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > deepest:
            raise ValueError(f"nested more than {deepest} deep at byte {parser.CurrentByteIndex}")

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise ValueError(f"not well-formed: {error}") from error
