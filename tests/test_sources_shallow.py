import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.sources.shallow import check_xml, read_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='[]{}"\\a'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet='[]{}"\\a'), inner),
    max_leaves=10,
)


@given(JSON)
def test_json_is_what_it_was(value: object) -> None:
    assert read_json(json.dumps(value), deepest=100) == value


@pytest.mark.parametrize("text", ['["[[[[["]', '["\\"[[[[["]', '[{"[": "]"}]', "[[],[],[],[]]"])
def test_brackets_in_strings_and_beside_one_another_do_not_count(text: str) -> None:
    assert read_json(text, deepest=2) == json.loads(text)


@pytest.mark.parametrize("text", ["[[[]]]", '{"a": [[', '[[["', '"" [[['])
def test_what_goes_too_deep(text: str) -> None:
    with pytest.raises(ValueError, match="nested more than 2 deep at character"):
        read_json(text, deepest=2)


@pytest.mark.parametrize("text", ["", "]" * 50 + "[", "nul", "NaN["])
def test_what_is_no_json(text: str) -> None:
    with pytest.raises(ValueError, match=r"Expecting|Extra data"):
        read_json(text)


def test_xml() -> None:
    check_xml("<a><b/><b/><b/></a>", deepest=2)
    with pytest.raises(ValueError, match="nested more than 2 deep at byte 6"):
        check_xml("<a><b><c/></b></a>", deepest=2)
    with pytest.raises(ValueError, match="not well-formed: no element found"):
        check_xml("<a>")
