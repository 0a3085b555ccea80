"""Addresses as Go reads and spells them. The expected values were printed by Go's net package."""

import pytest

from cni_py.ipam.addresses import parse_cidr, parse_ip, spell


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("::10.1.2.3", "::a01:203"),
        ("2001:db8::1:0:0:1", "2001:db8::1:0:0:1"),
        ("2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
        ("2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"),
        ("FD00::A", "fd00::a"),
        ("::", "::"),
        ("010.1.2.3", None),
        ("10.1.2", None),
        ("10.1.2.3 ", None),
        ("10.1.2.256", None),
        ("１0.1.2.3", None),  # noqa: RUF001  # a full-width digit, as hostile input has
        ("fe80::1%eth0", None),
        ("1::2::3", None),
        ("12345::", None),
        ("10.1.2.3\n", None),
        ("", None),
    ],
)
def test_parse_ip(text: str, expected: str | None) -> None:
    """net.ParseIP and String, or nil."""
    parsed = parse_ip(text)
    assert expected == (None if parsed is None else spell(int(parsed), parsed.version))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.1.2.3/24", ("10.1.2.3", 24, 32)),
        ("10.1.2.0/024", ("10.1.2.0", 24, 32)),
        ("fd00::/64", ("fd00::", 64, 128)),
        ("::ffff:10.1.2.0/120", ("10.1.2.0", 120, 128)),
        ("10.1.2.0/0", ("10.1.2.0", 0, 32)),
        ("10.1.2.0/33", None),
        ("fd00::/129", None),
        ("10.1.2.0", None),
        ("10.1.2.0/", None),
        ("10.1.2.0/+8", None),
        ("10.1.2.0/-1", None),
        ("10.1.2.0/255.255.255.0", None),
        ("10.1.2.0/٨", None),
        ("10.1.2.0/" + "9" * 5000, None),
        ("/24", None),
    ],
)
def test_parse_cidr(text: str, expected: tuple[str, int, int] | None) -> None:
    """net.ParseCIDR, or its error."""
    parsed = parse_cidr(text)
    assert expected == (None if parsed is None else (str(parsed[0]), parsed[1], parsed[2]))
