"""The role policy over a real kernel: admission, revocation, repair, restart, and what happens when others meddle."""

import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from ipaddress import ip_interface, ip_network

import pytest
from policy.policy_lab import NUMBERS, Lab, address, lab

from cni_py.agent import policies as role
from cni_py.agent.policies import Policies, PolicySink
from cni_py.kernel.local_addresses import local_addresses
from cni_py.model.attachment import Attachment, Key, PodAddress
from cni_py.model.errors import TryAgainError
from cni_py.model.policy import (
    TCP,
    UDP,
    Address,
    Changes,
    Flow,
    Namespace,
    Pod,
    Pods,
    Policy,
    Port,
    Requirement,
    Rule,
    Selector,
)

pytestmark = pytest.mark.sudo
PATIENCE_S = 5.0
CIDRS = (ip_network("10.0.0.0/24"), ip_network("fd00::/64"))
WEB = Selector((Requirement("app", "In", ("web",)),))


class MemorySource:
    """A source that says what a test tells it to."""

    def __init__(self, *, knows_pods: bool = False) -> None:
        self.sink: PolicySink
        self.knows_pods = knows_pods
        self.announced: list[tuple[str, tuple[Address, ...]]] = []

    def start(self, sink: PolicySink) -> None:
        """See PolicySource."""
        self.sink = sink

    def announce(self, pod: str, addresses: tuple[Address, ...]) -> None:
        """See PolicySource."""
        self.announced.append((pod, addresses))

    def denied(self, pod: str, text: str, *, audit: bool) -> None:
        """See PolicySource."""

    def stop(self) -> None:
        """See PolicySource."""

    def say(self, *objects: Pod | Policy | Namespace, gone: tuple[Pod | Policy, ...] = ()) -> None:
        """These are so now; and those are not any more."""
        told = Changes({}, {}, {})
        for one in (*objects, *gone):
            value = None if one in gone else one
            match one:
                case Pod():
                    told.pods[one.key] = value  # type: ignore[index]
                case Policy():
                    told.policies[one.key] = value  # type: ignore[index]
                case Namespace():
                    told.namespaces[one.name] = value  # type: ignore[index]
        self.sink.changed(told)


def pod(number: int, app: str = "", *, node: str = "n1") -> Pod:
    """A pod of the lab."""
    own = tuple(address(number, version) for version in (4, 6))
    return Pod(f"u{number}", "shop", f"p{number}", {"app": app} if app else {}, own, (), node)


def attached(number: int, pod_name: str = "", container: str = "") -> Attachment:
    """The attachment of a pod of the lab."""
    own = tuple(PodAddress(ip_interface(address(number, version))) for version in (4, 6))
    key = Key("net", container or f"c{number}", "eth0")
    return Attachment(key, "cni-py", "routed", "", "", 0, "", "v", addresses=own, pod=pod_name)


def allow(*apps: str, port: int = 80, name: str = "allow") -> Policy:
    """Web pods get from pods of these apps, over TCP and UDP, and nothing else."""
    peers = tuple(Pods("shop", Selector((Requirement("app", "In", (app,)),))) for app in apps)
    return Policy("shop", name, WEB, (Rule(peers, (Port(TCP, port, port), Port(UDP, port, port))),) if apps else ())


@pytest.fixture
def place() -> Iterator[Lab]:
    """A node with nine pods."""
    with lab() as made:
        yield made


@contextmanager
def running(
    *attachments: Attachment, cidrs: tuple[object, ...] = CIDRS, knows_pods: bool = False
) -> Iterator[tuple[Policies, MemorySource, dict[str, int]]]:
    """The role on the node."""
    source, counts = MemorySource(knows_pods=knows_pods), dict[str, int]()

    def count(what: str, number: int) -> None:
        counts[what] = counts.get(what, 0) + number

    one = Policies("n1", cidrs, source, local_addresses, count)  # type: ignore[arg-type]
    one.start(attachments)
    try:
        yield one, source, counts
    finally:
        one.stop()


def eventually(true: Callable[[], bool], what: str, seconds: float = PATIENCE_S) -> None:
    """It becomes true."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, what
        time.sleep(0.005)


def connect(place: Lab, source: int, destination: int, port: int = 80) -> tuple[socket.socket, socket.socket]:
    """A connection that stands: both its ends."""
    listener = place.pods[destination].listeners[4, port]
    client = place.pods[source].socket(socket.AF_INET, socket.SOCK_STREAM)
    client.settimeout(PATIENCE_S)
    client.connect((str(address(destination, 4)), port))
    listener.settimeout(PATIENCE_S)
    server, _ = listener.accept()
    listener.setblocking(False)  # noqa: FBT003
    server.settimeout(PATIENCE_S)
    return client, server


def passes(sender: socket.socket, receiver: socket.socket) -> bool:
    """What one sends the other gets within 0.3 s."""
    receiver.settimeout(0.3)
    sender.send(b"x")
    try:
        return receiver.recv(100) != b""
    except TimeoutError:
        return False


def tcp(source: int, destination: int, port: int = 80) -> Flow:
    """The flow between two pods of the lab."""
    return Flow(address(source, 4), address(destination, 4), TCP, port)


def test_closed_until_admitted(place: Lab) -> None:
    """A pod's first packets are dropped both ways, those of a pod that the source knows are not."""
    with running() as (policies, source, _):
        source.say(*(pod(number) for number in NUMBERS if number != 1))
        arrived = place.matrix(set())
        assert arrived
        assert not any(address(1, version) in (one.source, one.destination) for one in arrived for version in (4, 6))
        policies.expect("shop/p1", "")
        policies.admit(attached(1, "shop/p1"))
        assert place.matrix(set(place.flows())) == set(place.flows())
        assert source.announced == [("shop/p1", (address(1, 4), address(1, 6)))]
        policies.dismiss(attached(1))  # a DEL need not say whose it is
        assert tcp(2, 1) not in place.matrix(set())


def test_admitted_with_its_policies(place: Lab) -> None:
    """The pod is known by its labels before it has an address: its policies hold from its first packet."""
    with running() as (policies, source, _):
        bare = Pod("u1", "shop", "p1", {"app": "web"}, (), (), "n1")
        source.say(bare, allow("db"), pod(2, "db"), pod(3))
        policies.admit(attached(1, "shop/p1"))
        arrived = place.matrix({tcp(2, 1)})
        assert tcp(2, 1) in arrived
        assert not {tcp(3, 1), tcp(2, 1, 79)} & arrived
        assert {tcp(1, 2), tcp(1, 3)} <= arrived


@pytest.mark.usefixtures("place")
def test_waits_for_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ADD before the first word is refused, and so is a pod that the API has not told of."""
    monkeypatch.setattr(role, "SYNC_SECONDS", 0.05)
    with running(knows_pods=True) as (policies, source, _):
        with pytest.raises(TryAgainError, match="not known yet"):
            policies.expect("shop/p1", "")
        source.say()
        with pytest.raises(TryAgainError, match="shop/p1"):
            policies.expect("shop/p1", "")
        monkeypatch.setattr(role, "SYNC_SECONDS", PATIENCE_S)
        later = threading.Timer(0.05, lambda: source.say(Pod("u1", "shop", "p1", {})))
        later.start()
        policies.expect("shop/p1", "")
        later.join()
        assert policies.is_expected("shop/p1", "u1")
        assert not policies.is_expected("shop/p1", "u2")
        later = threading.Timer(0.05, lambda: source.say(Pod("u2", "shop", "p1", {})))
        later.start()
        policies.expect("shop/p1", "u2")  # a pod of that name that is gone was known
        later.join()
        assert policies.is_expected("shop/p1", "u2")


def test_revoked(place: Lab) -> None:
    """A connection that a policy no longer allows is cut in both directions, and does not come back as another."""
    with running() as (policies, source, counts):
        source.say(pod(1, "web"), pod(2, "db"), pod(3, "db"), allow("db"))
        client, server = connect(place, 2, 1)
        other_client, other_server = connect(place, 1, 3)  # the web pod's own, which no policy concerns
        with client, server, other_client, other_server:
            assert passes(client, server)
            assert passes(server, client)
            source.say(allow("nobody"))
            assert not passes(client, server)
            eventually(policies.is_settled, "the connection is ended")
            assert not passes(server, client)  # which would be a new connection of the web pod's, were it not cut
            assert not passes(client, server)
            assert passes(other_client, other_server)
            assert passes(other_server, other_client)
            assert counts["connection"] == 1
            source.say(allow("db"))
            eventually(policies.is_settled, "it may go on")
            server.settimeout(PATIENCE_S)
            assert server.recv(100).startswith(b"x")  # TCP repeats what was lost


def test_membership_revokes(place: Lab) -> None:
    """A peer that loses its label loses its connections, a pod that comes under a policy those it should not have."""
    with running() as (policies, source, _):
        source.say(pod(1, "web"), pod(2, "db"), allow("db"))
        client, server = connect(place, 2, 1)
        with client, server:
            source.say(pod(2, "cache"))
            assert not passes(client, server)
        source.say(pod(3), pod(4))
        client, server = connect(place, 4, 3)
        with client, server:
            assert passes(client, server)
            source.say(pod(3, "web"))
            assert not passes(client, server)
            eventually(policies.is_settled, "it is ended")


def test_widening_resets_nothing(place: Lab) -> None:
    """More policies, more peers, no policy: a connection that stands goes on through all of it."""
    with running() as (_, source, _):
        source.say(pod(1, "web"), pod(2, "db"), pod(3, "cache"), allow("db"))
        client, server = connect(place, 2, 1)
        with client, server:
            for step in (allow("db", "cache"), allow("cache", name="more"), pod(4, "db"), allow("db")):
                source.say(step)
                assert passes(client, server)
                assert passes(server, client)
            source.say(gone=(allow("db"), allow("cache", name="more")))
            assert passes(client, server)
            assert passes(server, client)


def test_flushed(place: Lab) -> None:
    """`nft flush ruleset`: all is back within a second, and counted."""
    with running() as (policies, source, counts):
        source.say(*(pod(number, "web" if number == 1 else "") for number in NUMBERS), allow("db"))
        assert tcp(2, 1) not in place.matrix(set())
        began = time.monotonic()
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        eventually(lambda: counts.get("policy table", 0) > 0, "it is mended")
        assert time.monotonic() - began < 1.0
        assert tcp(2, 1) not in place.matrix(set())
        assert policies.conditions.report() == []


@pytest.mark.parametrize(
    "meddling",
    [
        "flush chain inet cnipy_policy c_forward",
        "flush chain inet cnipy_policy d_ingress",
        "flush map inet cnipy_policy ingress4",
        "insert rule inet cnipy_policy c_forward accept",
        "add element inet cnipy_policy ready4 { 10.0.0.99 }",
        "flush set inet cnipy_policy local4",
        "delete table inet cnipy_policy",
    ],
)
def test_meddling_is_mended(place: Lab, meddling: str) -> None:
    """Whatever somebody does to the table is undone."""
    with running() as (_, source, counts):
        source.say(*(pod(number, "web" if number == 1 else "") for number in NUMBERS), allow("db"))
        before = place.matrix(set())
        subprocess.run(["nft", *meddling.split(" ", 2)[:2], meddling.split(" ", 2)[2]], check=True)
        eventually(lambda: counts.get("policy table", 0) > 0, "it is mended")
        listing = subprocess.run(["nft", "list", "ruleset"], check=True, capture_output=True, text=True).stdout
        assert place.matrix(before) == before
        assert "10.0.0.99" not in listing


def test_restarted_under_traffic(place: Lab) -> None:
    """Ten agents, one after the other: no packet of a standing connection is lost, nothing denied passes."""
    objects: list[Pod | Policy] = [*(pod(number, "web" if number == 1 else "db") for number in NUMBERS), allow("db")]
    lost = 0
    with running() as (_, source, _):
        source.say(*objects)
    client, server = connect(place, 2, 1)
    with client, server:
        for _ in range(10):
            with running(attached(1, "shop/p1")) as (policies, source, _):
                source.say(*objects)
                lost += not passes(client, server)
                eventually(policies.is_settled, "all is judged")
                lost += not passes(server, client)
            assert tcp(2, 1, 79) not in place.matrix({tcp(2, 1)})
    assert lost == 0


def test_address_changes_hands(place: Lab) -> None:
    """A pod is deleted, and its address is another's before the API says so: the new one has its own policies."""
    with running() as (policies, source, _):
        source.say(pod(1, "web"), pod(2, "db"), allow("nobody"))
        policies.admit(attached(1, "shop/p1"))
        assert tcp(2, 1) not in place.matrix(set())
        policies.dismiss(attached(1, "shop/p1"))
        policies.admit(attached(1, "shop/next", "c-next"))
        assert tcp(2, 1) in place.matrix({tcp(2, 1)})


def test_node_to_its_pods(place: Lab) -> None:
    """The node, so the kubelet, always reaches its own pods; a pod reaches the node only where its egress allows it."""
    with running() as (_, source, _):
        closed = Policy("shop", "closed", Selector(), (), ())
        source.say(pod(1), closed)
        with socket.create_connection((str(address(1, 4)), 80), PATIENCE_S):
            pass
        with place.pods[1].socket(socket.AF_INET, socket.SOCK_STREAM) as client, socket.socket() as server:
            server.bind(("169.254.1.1", 8080))
            server.listen()
            client.settimeout(0.3)
            with pytest.raises(TimeoutError):
                client.connect(("169.254.1.1", 8080))


@pytest.mark.usefixtures("place")
def test_a_link_of_two_pods(caplog: pytest.LogCaptureFixture) -> None:
    """A veth's name that a pod had whose DEL never came is the next one's: its ADD is no error, and the table whole."""
    closed = Policy("shop", "closed", Selector(), None, ())
    other = Policy("shop", "other", WEB, None, (Rule(),))
    with running() as (policies, source, counts):
        source.say(pod(1), pod(2, "web"), closed, other)
        for number in (1, 2):
            policies.admit(replace(attached(number, f"shop/p{number}"), host_ifname="v1"))
            assert not policies.verify()
        policies.dismiss(attached(1, "shop/p1"))
        assert not policies.verify()
        policies.dismiss(attached(2, "shop/p2"))
        assert not policies.verify()
        assert policies.conditions.report() == []
        assert counts == {}
        assert "read anew" not in caplog.text


def test_no_way_to_the_node_by_link_local(place: Lab) -> None:
    """A pod that may send nothing has its link-local address all the same: its node is closed by that as well."""
    closed = Policy("shop", "closed", Selector(), None, ())
    with running() as (policies, source, _), socket.socket(socket.AF_INET6) as server:
        server.bind(("::", 8080))
        server.listen()
        source.say(pod(1), pod(2))
        policies.admit(replace(attached(1, "shop/p1"), host_ifname="v1"))
        own = place.link_local(1)

        def reaches() -> bool:
            with place.pods[1].socket(socket.AF_INET6, socket.SOCK_STREAM) as client:
                client.settimeout(0.3)
                client.bind(own)
                with suppress(TimeoutError):
                    client.connect(("fe80::1", 8080, 0, own[3]))
                    return True
                return False

        eventually(reaches, "without a policy")
        source.say(closed)
        assert not reaches()
        source.say(gone=(closed,))
        assert reaches()
