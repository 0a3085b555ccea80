"""Ours beside the compiled host-local: the same calls on two directories, and both on one directory."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ipam.plugins import Outcome, environment, finish, in_process, start_ours, start_reference, tree

POOLS: dict[str, dict[str, Any]] = {
    "v4": {"subnet": "10.1.2.0/29"},
    "v6": {"subnet": "fd00:1::/125"},
    "two ranges": {"ranges": [[{"subnet": "10.1.2.0/30"}, {"subnet": "10.1.9.0/29", "rangeStart": "10.1.9.4"}]]},
    "dual": {"ranges": [[{"subnet": "10.1.2.0/29"}], [{"subnet": "fd00:1::/126"}]]},
    "two v4 sets": {"ranges": [[{"subnet": "10.1.2.0/29", "gateway": "10.1.2.6"}], [{"subnet": "10.1.3.0/29"}]]},
}
WISHES = ("", "10.1.2.2", "10.1.2.5", "10.1.2.1", "fd00:1::3", "10.1.9.5", "192.0.2.9", "::ffff:10.1.2.4")

Call = tuple[str, int, str, str, str]
CALLS = st.tuples(
    st.sampled_from(["ADD", "ADD", "ADD", "DEL", "DEL", "CHECK"]),
    st.integers(0, 6),
    st.sampled_from(["eth0", "eth0", "net1"]),
    st.sampled_from(["CNI_ARGS", "args", "runtimeConfig"]),
    st.sampled_from(WISHES + ("",) * 8),
)

_ALL_REQUESTED = "failed to allocate all requested IPs: "


def configure(pool: str, data_dir: Path, way: str, wish: str) -> dict[str, Any]:
    """The configuration of one call, asking for an address in one of the three ways."""
    config: dict[str, Any] = {
        "cniVersion": "1.0.0",
        "name": "net",
        "ipam": {"type": "host-local", "dataDir": str(data_dir), **POOLS[pool]},
    }
    if wish and way == "args":
        config["args"] = {"cni": {"ips": [wish]}}
    if wish and way == "runtimeConfig":
        config["runtimeConfig"] = {"ips": [wish]}
    return config


def holds(data_dir: Path, container: str) -> bool:
    """True if the container holds an address."""
    return any(content.startswith(container.encode()) for _, content in tree(data_dir).values())


def compared(outcome: Outcome) -> tuple[int, dict[str, Any]]:
    """What must be equal: an error's text and everything of a result."""
    return outcome.code, {"msg": outcome.message} if outcome.code else outcome.document


@pytest.mark.parametrize("pool", POOLS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=st.lists(CALLS, min_size=1, max_size=14))
def test_same_answers_same_files(pool: str, calls: list[Call], reference: Path) -> None:
    """After any sequence of calls both have answered alike and left the same files with the same modes."""
    with tempfile.TemporaryDirectory() as scratch:
        ours, theirs = Path(scratch) / "ours", Path(scratch) / "theirs"
        for directory in (ours, theirs):
            directory.mkdir()
        for command, number, ifname, way, asked in calls:
            container = f"container-{number}"
            # When a later set fails, host-local also releases what an earlier ADD gave the container; ours does not.
            wish = "" if len(POOLS[pool].get("ranges", ())) > 1 and holds(ours, container) else asked
            env = environment(command, container, ifname, f"IP={wish}" if wish and way == "CNI_ARGS" else "")
            mine = in_process(configure(pool, ours, way, wish), env)
            reference_outcome = finish(start_reference(reference, env), configure(pool, theirs, way, wish))
            assert compared(reference_outcome) == compared(mine)
        assert tree(theirs) == tree(ours)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=st.lists(st.tuples(CALLS, st.booleans()), min_size=1, max_size=20))
def test_taking_turns_on_one_directory(calls: list[tuple[Call, bool]], reference: Path) -> None:
    """With both plugins on one directory no address is given twice, none is lost, and each knows the other's leases."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        held: dict[tuple[str, str], list[str]] = {}
        for (command, number, ifname, _, _), ours in calls:
            key = (f"container-{number}", ifname)
            config, env = configure("v4", directory, "", ""), environment(command, *key)
            outcome = in_process(config, env) if ours else finish(start_reference(reference, env), config)
            taken = {address for addresses in held.values() for address in addresses}
            match command:
                case "ADD" if outcome.code == 0:
                    assert taken.isdisjoint(outcome.addresses)
                    held[key] = outcome.addresses
                case "ADD":
                    assert key in held or len(taken) == 5
                case "DEL":
                    assert outcome.code == 0
                    held.pop(key, None)
                case _:
                    assert (outcome.code == 0) == (key in held)
        left = {Path(path).name: content.decode() for path, (_, content) in tree(directory).items()}
        leases = {name: content for name, content in left.items() if name.startswith("10.")}
        expected = {address: "\r\n".join(key) for key, addresses in held.items() for address in addresses}
        assert expected == leases


def test_at_the_same_time_on_one_directory(reference: Path, tmp_path: Path) -> None:
    """Eight processes of both kinds at once: 48 ADDs give 48 addresses, 48 DELs leave none."""
    config = configure("v4", tmp_path, "", "")
    config["ipam"]["subnet"] = "10.1.2.0/24"

    def run_all(command: str) -> list[Outcome]:
        outcomes = []
        for start in range(0, 48, 8):
            batch = []
            for number in range(start, start + 8):
                env = environment(command, f"container-{number}")
                batch.append(start_ours(env) if number % 2 else start_reference(reference, env))
            outcomes += [finish(process, config) for process in batch]
        return outcomes

    added = run_all("ADD")
    addresses = [address for outcome in added for address in outcome.addresses]
    assert ([outcome.code for outcome in added], len(set(addresses))) == ([0] * 48, 48)
    assert set(addresses) == {name.name for name in (tmp_path / "net").glob("10.*")}
    assert [outcome.code for outcome in run_all("DEL")] == [0] * 48
    assert list((tmp_path / "net").glob("10.*")) == []


SUBNETS = st.sampled_from(
    [
        "10.1.2.0/24",
        "10.1.2.0/30",
        "10.1.2.4/30",
        "10.1.2.0/31",
        "10.1.2.5/24",
        "0.0.0.0/0",
        "fd00::/64",
        "fd00::/126",
        "fd00::1/64",
        "::ffff:10.1.2.0/120",
        "::/0",
        "fd00::/127",
        "10.1.0.0/16",
        "x",
        "255.255.255.252/30",
    ]
)
ADDRESSES = st.sampled_from(
    [
        "10.1.2.0",
        "10.1.2.1",
        "10.1.2.2",
        "10.1.2.3",
        "10.1.2.5",
        "10.1.2.255",
        "fd00::",
        "fd00::2",
        "FD00::0:3",
        "::ffff:10.1.2.2",
        "10.1.2",
        "0.0.0.1",
        "255.255.255.254",
        "fe80::1%lo",
    ]
)
IPS = st.lists(ADDRESSES, max_size=1)
RANGES = st.fixed_dictionaries(
    {"subnet": SUBNETS}, optional={"rangeStart": ADDRESSES, "rangeEnd": ADDRESSES, "gateway": ADDRESSES}
)
CONFIGS = st.fixed_dictionaries(
    {"name": st.just("net"), "cniVersion": st.sampled_from(["1.0.0", "0.2.0", "0.4.0", ""])},
    optional={
        "ipam": st.builds(
            lambda top, more: {**top, **more},
            st.just({}) | RANGES,
            st.fixed_dictionaries({}, optional={"ranges": st.lists(st.lists(RANGES, max_size=2), max_size=3)}),
        ),
        "runtimeConfig": st.fixed_dictionaries(
            {},
            optional={
                "ipRanges": st.lists(st.lists(RANGES, max_size=2), max_size=1),
                "ips": st.lists(ADDRESSES, max_size=1),
            },
        ),
        "args": st.just({}) | st.fixed_dictionaries({"cni": st.fixed_dictionaries({"ips": IPS})}),
    },
)


def _ordered(outcome: tuple[int, Any]) -> tuple[int, Any]:
    """With the addresses of a refusal sorted: Go lists them as they come out of a map, in another order each time."""
    code, document = outcome
    told, colon, addresses = document.get("msg", "").partition(_ALL_REQUESTED) if code else ("", "", "")
    if not colon:
        return outcome
    return code, {**document, "msg": told + colon + " ".join(sorted(addresses.split()))}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(config=CONFIGS)
def test_same_reading_of_configurations(config: dict[str, Any], reference: Path) -> None:
    """Any configuration is accepted or refused alike, in the same words, and gives the same addresses and files."""
    with tempfile.TemporaryDirectory() as scratch:
        outcomes = []
        for name in ("ours", "theirs"):
            data_dir = Path(scratch) / name
            data_dir.mkdir()
            sent = dict(config)
            if "ipam" in sent:
                sent["ipam"] = {"type": "host-local", **sent["ipam"], "dataDir": str(data_dir)}
            env = environment("ADD")
            outcomes.append(
                compared(in_process(sent, env) if name == "ours" else finish(start_reference(reference, env), sent))
            )
        mine, theirs = map(_ordered, outcomes)
        # Go decodes the whole document first, in its order; of several errors ours may name another.
        if theirs[0] and theirs[1]["msg"].startswith(("invalid IP address", "invalid CIDR address")):
            assert mine[0] == 1
        else:
            assert theirs == mine
        assert tree(Path(scratch) / "theirs") == tree(Path(scratch) / "ours")
