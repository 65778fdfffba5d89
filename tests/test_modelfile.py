import contextlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.model import default_model_path
from monitor.modelfile import ModelError, read_metadata

CONTENT = default_model_path().read_bytes()
# The directory of the archive behind the network, and where it ends.
DIRECTORY = CONTENT.rindex(b"PK\1\2")
END = CONTENT.rindex(b"PK\5\6")


def test_a_position_before_the_begin() -> None:
    damaged = bytearray(CONTENT)
    struct.pack_into("<I", damaged, END + 16, 2**31)
    with pytest.raises(ModelError, match=r"f: no monitor\.json inside"):
        read_metadata(bytes(damaged), source="f")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(DIRECTORY, len(CONTENT) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_archive_is_refused_in_words(changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(CONTENT)
    for at, value in changes:
        damaged[at] = value
    with contextlib.suppress(ModelError):
        read_metadata(bytes(damaged), source="f")
