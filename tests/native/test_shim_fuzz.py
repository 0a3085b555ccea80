"""Mutated calls and frames against the shim's readers under AddressSanitizer, and against Python's reading of the same.

Seeded, so a failure repeats. The verdict on each call (forwarded, or which document) must be that of `parse_request`.
"""

import json
import os
import random
import re
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest
from fuzz.mutate import ATOMS, environment, mutate_bytes, mutate_config
from native.fake_agent import pack, status, strings
from vectors.test_contract_vectors import FILES

from cni_py.cmd.plugin import Answer, answer
from cni_py.model.persona import Persona
from cni_py.spec.request import COMMANDS, Request

SEED = 20261124
CALLS, FRAMES = 20_000, 5_000
FORWARDED, REFUSED, ANSWERED, UNDECIDED = range(4)
WHOLE, MORE, GONE, LATE, BAD = range(5)
DEEPEST = 128  # of native/json.h

NUMBER = struct.Struct("=I")
NAMES = [persona.value for persona in Persona]
CONFIGS = [vector["stdin"] for vector in (json.loads(file.read_text()) for file in FILES)]


@dataclass
class Fuzzed:
    """native/fuzz.c at the other end of two pipes."""

    process: "subprocess.Popen[bytes]"
    requests: IO[bytes]
    verdicts: IO[bytes]

    def request(self, name: str, environ: Mapping[str, str], stdin: bytes) -> tuple[int, bytes]:
        """(verdict, document) on a call."""
        parts = [os.fsencode(name), *(os.fsencode(f"{key}={value}") for key, value in environ.items())]
        packed = [_string(part) for part in parts]
        self._send(NUMBER.pack(0), packed[0], NUMBER.pack(len(environ)), *packed[1:], _string(stdin))
        return self._number(), self._string()

    def frame(self, data: bytes) -> tuple[int, bool, bytes]:
        """(arrival, it is an order, document) on a frame."""
        self._send(NUMBER.pack(1), _string(data))
        return self._number(), bool(self._number()), self._string()

    def _send(self, *parts: bytes) -> None:
        self.requests.write(b"".join(parts))
        self.requests.flush()

    def _number(self) -> int:
        data = self.verdicts.read(NUMBER.size)
        if len(data) < NUMBER.size:
            pytest.fail(f"the shim's reader ended with {self.process.wait()}, the lines above say why")
        return int(NUMBER.unpack(data)[0])

    def _string(self) -> bytes:
        return self.verdicts.read(self._number())


def _string(data: bytes) -> bytes:
    return NUMBER.pack(len(data)) + data


@pytest.fixture
def fuzzed(native: Path) -> Iterator[Fuzzed]:
    """The readers, in one process for all cases."""
    with subprocess.Popen([native / "fuzz"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        yield Fuzzed(process, process.stdin, process.stdout)
        process.stdin.close()
        assert process.wait(60) == 0


def python(name: str, environ: Mapping[str, str], stdin: bytes) -> tuple[int, Answer]:
    """The verdict that Python comes to."""
    forwarded = []

    def verbs(_: Request) -> bytes:
        forwarded.append(True)
        return b""

    answered = answer(name, verbs, environ, lambda: stdin)
    return FORWARDED if forwarded else REFUSED if answered.code else ANSWERED, answered


def check(fuzzed: Fuzzed, name: str, environ: Mapping[str, str], stdin: bytes) -> int:
    """Both come to the same; the verdict."""
    verdict, document = fuzzed.request(name, environ, stdin)
    what = f"seed {SEED}: {environ}\n{stdin[:3000]!r}"
    if verdict == UNDECIDED:
        assert _depth(stdin) > DEEPEST or _spellings(stdin) > 16, what
        return verdict
    expected, answered = python(name if name in NAMES else "cni-py", environ, stdin)
    assert verdict == expected, f"{document!r} for {answered}\n{what}"
    assert _comparable(document) == _comparable(answered.stdout or answered.stderr), what
    return verdict


def _comparable(document: bytes) -> bytes:
    """Without what differs among versions of Python, and the rarer characters of a repr()."""
    if sys.version_info >= (3, 13) and (b"property name enclosed" in document or b"railing comma" in document):
        return re.sub(rb'"msg": .*\n', b"", document)
    if (b"invalid version" in document or b"is not UTF-8" in document) and not document.isascii():
        return re.sub(rb'"(msg|details)": .*\n', b"", document)
    return document


def _depth(text: bytes) -> int:
    """At least the depth of the nesting: brackets in strings count as well."""
    deepest = depth = 0
    for byte in text:
        depth += (byte in b"[{") - (byte in b"]}")
        deepest = max(deepest, depth)
    return deepest


def _spellings(text: bytes) -> int:
    """At least the count of different spellings of a key."""
    return len(set(re.findall(rb'"[^"]{10,80}"', text)))


def test_calls(fuzzed: Fuzzed) -> None:
    """Mutated vectors and configurations: the same verdict and the same document as Python's."""
    rng = random.Random(SEED)  # noqa: S311  # to repeat, not to hide
    seen = [0, 0, 0, 0]
    for _ in range(CALLS):
        config = rng.choice(CONFIGS)
        persona = rng.choice(list(Persona))
        if isinstance(config, dict):
            stdin = json.dumps(mutate_config(rng, config, persona), ensure_ascii=rng.random() < 0.5)
        else:
            stdin = str(config)
        data = stdin.encode("utf-8", "surrogatepass")
        for _ in range(rng.choice([0, 0, 1, 1, 2])):
            data = mutate_bytes(rng, data)
        environ = environment(rng.choice([*COMMANDS, "frob", ""]), Path("/opt"), "c1", rng)
        seen[check(fuzzed, rng.choice([persona.value, "odd"]), environ, data)] += 1
    assert min(seen[:3]) > CALLS // 50, f"hardly any came to one of the verdicts: {seen}"


def _text(rng: random.Random, depth: int = 0) -> str:
    """JSON, and what looks like it."""
    blank = rng.choice(["", "", " ", "\n", "\t\r\n ", "\x0b"])
    match rng.randrange(9 if depth < 6 else 6):
        case 0:
            return blank + rng.choice(["null", "true", "false", "nul", "NaN", "-Infinity", "Infinity", "tru e"])
        case 1:
            number = [
                "0",
                "-0",
                "01",
                "1.",
                ".5",
                "-",
                "1e",
                "1e+",
                "1E-7",
                "2.50",
                "9" * 4300,
                "9" * 4301,
                "-" + "1" * 4400,
            ]
            return blank + rng.choice(number)
        case 2 | 3 | 4 | 5:
            return blank + _quoted(rng) + blank
        case 6:
            return f"{blank}[{','.join(_text(rng, depth + 1) for _ in range(rng.randrange(3)))}{blank}]"
        case _:
            pairs = (f"{blank}{_quoted(rng)}:{_text(rng, depth + 1)}" for _ in range(rng.randrange(5)))
            return "{" + ",".join(pairs) + blank + "}"


def _quoted(rng: random.Random) -> str:
    known = [
        "name",
        "NAME",
        "n\\u0061me",
        "cniVersion",
        "cniver\u017fion",
        "cniVer\\u017fion",
        "CNIVERSION",
        "1.1.0",
        "net",
    ]
    escapes = [
        "\\n",
        "\\u00e9",
        "\\ud83d\\ude00",
        "\\ud800",
        "\\udc00",
        "\\ud800\\ud83d\\ude00",
        "\\u12",
        "\\x",
        "\\",
        "\x01",
    ]
    if rng.random() < 0.6:
        return f'"{rng.choice(known)}"'
    parts = rng.choices(
        [*escapes, "a", "'", '\\"', "é", "€", "\U0001f600", "\u00a0", "/", "\\/", "\x7f"], k=rng.randrange(5)
    )
    return f'"{"".join(parts)}"' if rng.random() < 0.95 else f'"{"".join(parts)}'


def test_json(fuzzed: Fuzzed) -> None:
    """JSON of all kinds of faults and spellings: the same verdict, text and position as Python's."""
    rng = random.Random(SEED)  # noqa: S311  # to repeat, not to hide
    for _ in range(CALLS):
        text = _text(rng) if rng.random() < 0.3 else "{" + ",".join(_pair(rng) for _ in range(rng.randrange(6))) + "}"
        data = text.encode()
        if rng.random() < 0.3:
            data = mutate_bytes(rng, data)
        check(
            fuzzed,
            "cni-py",
            environment(rng.choice(["ADD", "STATUS", "CHECK", "\udcff\n\u20ac"]), Path("/o"), "c"),
            data,
        )


def _pair(rng: random.Random) -> str:
    value = rng.choice(["null", '"1.1.0"', '"0.4.0"', '"1.1"', '"net"', '"n\\ud800"', "7", _text(rng, 5)])
    return f"{_quoted(rng)}: {value}"


@pytest.mark.parametrize(
    "value", [atom for atom in ATOMS if isinstance(atom, str)] + ["\udc80", "a\u2028", "\u3000", "é" * 7]
)
@pytest.mark.parametrize("variable", ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS", "CNI_COMMAND", "CNI_PATH"])
def test_variables(variable: str, value: str, fuzzed: Fuzzed) -> None:
    """Any value of any variable, also what is no UTF-8."""
    value = value.replace("\0", "").replace("\ud800", "\udcff")
    environ = environment("ADD", Path("/opt"), "c1") | {variable: value}
    check(fuzzed, "cni-py", environ, b'{"name": "net", "cniVersion": "1.0.0"}')


@pytest.mark.parametrize(
    "text",
    [
        "[" * 127 + "]" * 127,
        '{"name":"n","x":' + "[" * 127 + "]" * 127 + "}",
        '{"name":"n","x":' + "[" * 128 + "]" * 128 + "}",
        "[" * 1_000_000,
        '{"a":' * 200_000,
        "{" + ",".join(f'"{key}":1' for key in ("name", "Name", "nAme", "NAME")) + ',"name":"net"}',
        '{"name":"a","NAME":"b/","name":"c"}',
        '{"name":"a/","NAME":null,"name":null}',
        '{"name":"' + "x" * 1_000_000 + '/"}',
        '{"name":"net"' + " " * (8 << 20),
        '{"name":"net"}' + " " * ((8 << 20) - 14),
        "\ufeff{}",
        '{"name":"net","cniVersion":"1.1.0.0"}',
        '{"name":"net","cniVersion":"0001.1"}',
        '{"name":"net","cniVersion":"1.\u0661.0"}',
        '{"name":"net","cniVersion":"1111111111.0"}',
        '{"name":"net","cniVersion":"\'\\"\\\\\\u0007' + "é" * 80 + '"}',
    ],
    ids=lambda text: f"{text[:30]}{len(text)}",
)
@pytest.mark.parametrize("command", ["ADD", "CHECK", "GC"])
def test_corners(command: str, text: str, fuzzed: Fuzzed) -> None:
    """Depth, size, order of equal keys, odd versions."""
    check(fuzzed, "cni-py", environment(command, Path("/opt"), "c1"), text.encode())


def test_spellings_are_bounded(fuzzed: Fuzzed) -> None:
    """More spellings of one key than the shim counts are left to the agent."""
    keys = {"".join(rng) for rng in _cased("cniversion")}
    text = ",".join(f'"{key}":"1.0.0"' for key in sorted(keys)[:100])
    environ = environment("ADD", Path("/opt"), "c1")
    assert fuzzed.request("cni-py", environ, f'{{"name":"net",{text}}}'.encode()) == (UNDECIDED, b"")


def _cased(word: str) -> Iterator[tuple[str, ...]]:
    for bits in range(1 << len(word)):
        yield tuple(char.upper() if bits >> place & 1 else char for place, char in enumerate(word))


def test_frames(fuzzed: Fuzzed) -> None:
    """Mutated frames are whole, unfinished or refused with a document; each beginning of a good one is unfinished."""
    rng = random.Random(SEED)  # noqa: S311  # to repeat, not to hide
    good = [
        pack(4, status(0), b'{"cniVersion": "1.0.0"}'),
        pack(4, status(1)),
        pack(2, strings("host-local", "CNI_COMMAND=ADD", "CNI_PATH=/opt/cni/bin:/x"), b"{}"),
        pack(2, strings("x")),
    ]
    for frame in good:
        assert fuzzed.frame(frame)[0] == WHOLE
        assert fuzzed.frame(frame)[1] == (frame[5] == 2)
        for size in range(1, len(frame)):
            assert fuzzed.frame(frame[:size]) == (MORE, False, b"")
    seen = {WHOLE: 0, MORE: 0, BAD: 0}
    for _ in range(FRAMES):
        data = bytearray(rng.choice(good))
        for _ in range(rng.choice([1, 1, 2, 8])):
            data[rng.randrange(min(len(data), rng.choice([16, 64])))] = rng.choice(
                [0, 1, 2, 4, 5, 47, 255, rng.randrange(256)]
            )
        arrival, _, document = fuzzed.frame(bytes(data[: rng.choice([len(data), rng.randrange(1, len(data))])]))
        seen[arrival] += 1
        if arrival == BAD:
            assert json.loads(document)["code"] == 999
    assert min(seen.values()) > FRAMES // 50, seen


@pytest.mark.parametrize(
    ("head", "good"),
    [
        (strings("host-local", "CNI_PATH=/x"), True),
        (strings("host-local"), True),
        (strings("host-local", "CNI_ARGS="), True),
        (b"host-local", False),
        (b"", False),
        (b"\0", False),
        (strings("../host-local"), False),
        (strings("-x"), False),
        (strings("."), False),
        (strings("x" * 255), True),
        (strings("x" * 256), False),
        (strings("x", "LD_PRELOAD=/x"), False),
        (strings("x", "CNI_PATH"), False),
        (strings("x", ""), False),
        (strings("x", *["CNI_A=1"] * 32), True),
        (strings("x", *["CNI_A=1"] * 33), False),
    ],
    ids=str,
)
def test_orders(head: bytes, good: bool, fuzzed: Fuzzed) -> None:
    """RUN names a file and CNI_ variables, nothing else."""
    assert fuzzed.frame(pack(2, head)) == (WHOLE, good, b"")
