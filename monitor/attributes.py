"""What the docstring of a struct says of it and of its fields."""

import re
from typing import NamedTuple

# "name: text" or "name, other: text", at the indentation of the section's entries.
_ENTRY = re.compile(r"(\w+(?:, \w+)*): +(.*)")


class Attribute(NamedTuple):
    """One entry of `Attributes:`."""

    names: tuple[str, ...]
    text: str


def summary(struct: type) -> str:
    """Give the text before `Attributes:`, as one line."""
    return " ".join((struct.__doc__ or "").partition("Attributes:")[0].split())


def attributes(struct: type) -> list[Attribute]:
    """Read the `Attributes:` section of a docstring, in its order."""
    section = (struct.__doc__ or "").partition("Attributes:\n")[2]
    lines = [line for line in section.splitlines() if line.strip()]
    if not lines:
        return []
    indent = _indent(lines[0])
    found: list[Attribute] = []
    for line in lines:
        entry = _ENTRY.fullmatch(line.strip()) if _indent(line) == indent else None
        if entry is not None:
            found.append(Attribute(tuple(entry[1].split(", ")), entry[2]))
        elif _indent(line) > indent and found:
            found[-1] = Attribute(found[-1].names, f"{found[-1].text} {line.strip()}")
        else:
            break
    return found


def attribute_texts(struct: type) -> dict[str, str]:
    """Give the text of each attribute; those explained together share one."""
    return {name: attribute.text for attribute in attributes(struct) for name in attribute.names}


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
