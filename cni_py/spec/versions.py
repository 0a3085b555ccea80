"""Which CNI versions we speak and how two of them compare (SPEC 1.1 section "Version considerations")."""

from cni_py.model.errors import DecodeError

SUPPORTED = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
CURRENT = SUPPORTED[-1]

# Results of one family have one shape; a result of one family is never read as another's (create.go).
FAMILIES = (("0.1.0", "0.2.0"), ("0.3.0", "0.3.1", "0.4.0"), ("1.0.0", "1.1.0"))


def parse(version: str) -> tuple[int, int, int]:
    """`"1.1"` -> `(1, 1, 0)`, as Go's ParseVersion: missing parts are 0. Raises DecodeError."""
    parts = version.split(".")
    if len(parts) > 3 or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise DecodeError(f"invalid version {version[:64]!r}", "a CNI version looks like 1.1.0")
    numbers = [int(part) for part in parts]
    return (numbers[0], *[*numbers[1:], 0, 0][:2])  # type: ignore[return-value]  # padded to three


def at_least(version: str, floor: str) -> bool:
    """True if `version` is `floor` or newer."""
    return parse(version) >= parse(floor)


def family(version: str) -> tuple[str, ...]:
    """The versions whose results have the same shape as `version`'s; empty if we do not know it."""
    return next((members for members in FAMILIES if version in members), ())
