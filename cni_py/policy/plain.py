"""Plain documents, as JSON and YAML decode to, read with care: whatever is wrong is a DecodeError of one short line."""

from collections.abc import Collection, Mapping, Sequence

from cni_py.model.errors import DecodeError

Document = Mapping[str, object]
_SHOWN = 60
_MOST_NAMED = 3


def shown(value: object) -> str:
    """A foreign value for people: printable ASCII, short, whatever its size and depth."""
    match value:
        case str():
            text = ascii(value[: _SHOWN + 1])
            return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case float():
            return str(value)
        case int():
            return str(value) if value.bit_length() < 128 else "a huge number"
        case Mapping():
            return "an object"
        case list():
            return "a list"
        case _:
            return f"a {type(value).__name__}"


def printable(value: str, most: int = 200) -> str:
    """A text for people that may hold anything: as it is if a terminal may print it, else escaped; short."""
    short = value if len(value) <= most else f"{value[:most]}..."
    return short if short.isascii() and short.isprintable() else ascii(short)


def mapping(value: object, where: str) -> Document:
    """An object; null is an empty one, as it is to the API."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise DecodeError(f"{where}: {shown(value)} is no object")
    return value


def listed(value: object, where: str) -> Sequence[object]:
    """A list; null is an empty one, as it is to the API."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise DecodeError(f"{where}: {shown(value)} is no list")
    return value


def text(value: object, where: str, most: int = 1 << 10) -> str:
    """A string of `most` characters or less."""
    if not isinstance(value, str):
        raise DecodeError(f"{where}: {shown(value)} is no text")
    if len(value) > most:
        raise DecodeError(f"{where}: {shown(value)} has {len(value)} characters, more than {most}")
    return value


def unknown(document: Document, known: Collection[str]) -> str:
    """The names of fields that are not `known`, for people; "" if there are none. What is null is not there."""
    names = [shown(key) for key, value in document.items() if value is not None and key not in known]
    return ", ".join(names[:_MOST_NAMED]) + (
        f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    )


def only(document: Document, known: Collection[str], where: str) -> None:
    """Raises DecodeError if there are other fields: a newer API's, or one that is misspelt, could mean anything."""
    names = unknown(document, known)
    if names:
        raise DecodeError(f"{where}: the field {names} is not known")


class Flaws:
    """What of a document was not understood: so many lines at most, and how many more there are."""

    MOST = 20

    def __init__(self) -> None:
        self._said: list[str] = []
        self._more = 0

    def add(self, reason: str) -> None:
        """One more."""
        if len(self._said) < self.MOST:
            self._said.append(reason)
        else:
            self._more += 1

    def told(self) -> tuple[str, ...]:
        """All of them."""
        return (*self._said, *([f"and {self._more} more"] if self._more else ()))
