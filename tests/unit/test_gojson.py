"""JSON as Go reads it: keys without case, null as unset; and hostile bytes, each with what is said of it."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_py.model.errors import DecodeError
from cni_py.spec import gojson

REFUSED = {
    "empty": (b"", "Expecting value"),
    "truncated": (b'{"name": "x"', "delimiter"),
    "two documents": (b"{} {}", "Extra data"),
    "an array": (b"[]", "not an array"),
    "a string": (b'"x"', "not a string"),
    "null": (b"null", "not null"),
    "not UTF-8": (b'{"name": "\xff"}', "not UTF-8 at byte 10"),
    "UTF-16": ('{"name": "x"}'.encode("utf-16"), "not UTF-8"),
    "byte order mark": (b"\xef\xbb\xbf{}", "BOM"),
    "NaN": (b'{"mtu": NaN}', "NaN"),
    "infinity": (b'{"mtu": -Infinity}', "-Infinity"),
    "an integer of 5000 digits": (b'{"mtu": ' + b"9" * 5000 + b"}", "4300 digits"),
    "nested": (b'{"a":' * 100000, "nested too deeply"),
    "huge": (b" " * (gojson.MAX_BYTES + 1), "more than"),
    "NUL in a string": (b'{"name": "a\x00b"}', "control character"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    """A DecodeError (code 6) that begins as the reference's and says where it went wrong."""
    data, text = REFUSED[name]
    with pytest.raises(DecodeError) as caught:
        gojson.decode(data)
    assert caught.value.message.startswith("error unmarshall network config: ")
    assert text in caught.value.message


def test_half_surrogates_are_replaced() -> None:
    """Go reads half a pair as U+FFFD, a whole one as its character; found by fuzzing, as pydantic refuses such keys."""
    data = b'{"ty\\ud800pe": "\\udc00", "b": "\\ud83d\\ude00", "c": "\\\\ud800"}'
    assert gojson.decode(data) == {"ty\ufffdpe": "\ufffd", "b": "\U0001f600", "c": "\\ud800"}


KEYS: list[tuple[dict[str, Any], Any]] = [
    ({"hostPort": 1}, 1),
    ({"HostPort": 1}, 1),
    ({"HOSTPORT": 1}, 1),
    ({"ho\u017ftPort": 1}, 1),  # the long s folds to s
    ({"hostPort": 1, "HostPort": 2}, 2),  # the last one counts
    ({"hostPort": 1, "HostPort": None}, 1),  # null leaves the field as it is
    ({"hostPort": None}, None),
    ({"host_port": 1}, None),
]


@pytest.mark.parametrize(("obj", "value"), KEYS, ids=str)
def test_keys_match_as_gos(obj: dict[str, Any], value: object) -> None:
    """`get` and `fold_keys` agree on which key is the field."""
    assert gojson.get(obj, "hostPort") == value
    assert gojson.fold_keys(obj, ["hostPort"]).get("hostPort") == value


def test_a_late_null_leaves_the_value() -> None:
    """Of equal keys the last counts, unless it is null."""
    assert gojson.decode(b'{"name": "a", "name": "b", "name": null, "x": null}') == {"name": "b", "x": None}


def test_eszett_is_not_two_letters() -> None:
    """Simple folding, as Go's: advm\u00df is no advmss."""
    assert gojson.get({"advm\u00df": 1}, "advmss") is None


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    """Nothing but DecodeError, whatever comes in."""
    with suppress(DecodeError):
        assert isinstance(gojson.decode(data), dict)
