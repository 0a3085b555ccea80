"""The wire form of probes: whatever comes in is a probe as it should be, or nothing."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from cni_py.overlay.probe_wire import BYTES, MOST_BYTES, Probe, answer_to, parse, quoted, render

_NUMBERS = st.integers(0, (1 << 32) - 1)
_TOKENS = st.integers(0, (1 << 64) - 1)
_REQUESTS = st.builds(Probe, st.just("request"), st.integers(BYTES, 9000), _NUMBERS, _TOKENS)


@given(_REQUESTS)
def test_what_is_sent_is_understood(probe: Probe) -> None:
    """A request is as large as it says, its answer as small as can be; both say the same."""
    data, back = render(probe), render(answer_to(probe))
    assert len(data) == probe.size
    assert len(back) == BYTES <= len(data)
    assert parse(data) == probe
    assert parse(back) == Probe("answer", probe.size, probe.sequence, probe.token)
    assert quoted(data[:BYTES]) == probe.token
    assert quoted(back) is None


@given(st.binary(max_size=100))
def test_noise_is_no_probe(data: bytes) -> None:
    """Without the magic."""
    assert parse(data) is None or data.startswith(b"CNIP\x01")
    assert quoted(data) is None or data.startswith(b"CNIP\x01\x01")


@given(_REQUESTS, st.data())
def test_what_is_cut_or_padded_is_no_probe(probe: Probe, data: st.DataObject) -> None:
    """So nobody has us answer what says to be larger than it is."""
    whole = render(probe)
    assert parse(whole[: data.draw(st.integers(0, len(whole) - 1))]) is None
    assert parse(whole + b"\0") is None
    assert parse(render(answer_to(probe)) + b"\0") is None


def test_other_versions_kinds_and_sizes_are_no_probes() -> None:
    """Each by itself."""
    good = bytearray(render(Probe("request", 100, 1, 2)))
    assert parse(bytes(good)) is not None
    for at, value in (
        (0, b"X"),
        (4, b"\0"),
        (4, b"\2"),
        (5, b"\0"),
        (5, b"\3"),
        (5, b"\xff"),
        (6, b"\0\0"),
        (6, b"\0\x13"),
    ):
        bad = good.copy()
        bad[at : at + len(value)] = value
        assert parse(bytes(bad)) is None, (at, value)
    assert parse(struct.pack("!4sBBHIQ", b"CNIP", 1, 2, 0, 1, 2)) is None
    assert parse(bytes(MOST_BYTES)) is None
