"""The prober's bookkeeping: whose turn it is, and that nothing but the answer to a question counts."""

from collections.abc import Iterable
from ipaddress import ip_address, ip_network

from cni_py.agent.probe_rounds import MOST_PER_SECOND, Outgoing, Rounds
from cni_py.model.overlay import Facts, Network, Node, Underlay, tunnel_mac
from cni_py.overlay.liveness import Health
from cni_py.overlay.probe_wire import Probe, answer_to, parse

NETWORK = Network("lab", (ip_network("10.0.0.0/8"),))
FACTS = Facts(Underlay("eth0", 1500), ipv6=False)


def node(number: int, probe_port: int = 9762) -> Node:
    """Of so many."""
    cidr = ip_network((int(ip_address("10.0.0.0")) + number * 256, 24))
    at = ip_address(int(ip_address("100.64.0.0")) + number)
    return Node(f"n{number}", (cidr,), tunnel_mac("lab", f"n{number}"), at, probe_port=probe_port)  # type: ignore[arg-type]


def rounds(*numbers: int, seconds: float = 10.0) -> Rounds:
    """This node has number 1."""
    made = Rounds(seconds, lambda _: 0)
    made.adopt(node(1), {node(one).name: node(one) for one in numbers}, NETWORK, FACTS, 0.0)
    return made


def only(made: Rounds, name: str = "n2", now: float = 100.0) -> Health:
    """What is told of one."""
    (found,) = made.health(now, name)
    return found


def request(sent: Outgoing) -> Probe:
    """As the peer reads it."""
    found = parse(sent.data)
    assert found is not None
    return found


def answer_all(made: Rounds, sent: Iterable[Outgoing], now: float, path: int = 9000) -> int:
    """All that are small enough are answered at once, the others never; how many were sent."""
    queue, count = list(sent), 0
    while queue:
        one = queue.pop()
        count += 1
        if len(one.data) + 28 <= path:
            queue += made.answered(answer_to(request(one)), one.target, now) or ()
    return count


def test_a_turn_is_a_probe_on_each_way_and_now_and_then_a_large_one() -> None:
    """Large ones begin when small ones pass."""
    made = rounds(2)
    sizes = []
    for turn in range(13):
        now = 20.0 * (turn + 1)
        sent = list(made.due(now))
        assert [(one.source, one.target) for one in sent[:2]] == [
            ("100.64.0.1", "100.64.0.2"),
            ("10.0.1.0", "10.0.2.0"),
        ]
        sizes.append([len(one.data) + 28 for one in sent[2:]])
        answer_all(made, sent, now + 0.01)
    assert [at for at, found in enumerate(sizes) if found] == [1, 6, 12]
    assert sizes[1] == [1450]
    assert (only(made).path_mtu, only(made).loss, only(made).problem) == (1450, {"underlay": 0, "overlay": 0}, "")


def test_only_the_answer_to_a_question_counts() -> None:
    """Not a wrong token, sequence, size or sender, nor one that came before or comes too late."""
    made = rounds(2)
    under, over, *_ = made.due(20.0)
    good = answer_to(request(under))
    for bad in (
        Probe("answer", good.size, good.sequence, good.token ^ 1),
        Probe("answer", good.size, good.sequence + 1, good.token),
        Probe("answer", good.size + 1, good.sequence, good.token),
    ):
        assert made.answered(bad, under.target, 20.1) is None
    assert made.answered(good, over.target, 20.1) is None
    assert made.answered(good, under.target, 20.1) is not None
    assert made.answered(good, under.target, 20.2) is None
    assert list(made.expire(21.5)) == []
    assert made.answered(answer_to(request(over)), over.target, 21.6) is None
    assert only(made).loss == {"underlay": 0, "overlay": 1}


def test_only_peers_are_known() -> None:
    """By the addresses that they have now; also one that answers nobody may ask."""
    made = rounds(2)
    assert made.sender("100.64.0.2") == made.sender("10.0.2.0") == "n2"
    assert made.sender("10.0.2.1") is None
    made.adopt(node(1), {"n3": node(3, probe_port=0)}, NETWORK, FACTS, 1.0)
    assert made.sender("100.64.0.2") is None
    assert made.sender("100.64.0.3") == "n3"
    made.asked("100.64.0.3", 2.0)
    assert made.health(2.0) == []
    assert list(made.due(100.0)) == []


def test_what_is_known_outlives_changes_of_others() -> None:
    """And goes with the way that it was about."""
    made = rounds(2)
    answer_all(made, made.due(20.0), 20.1)
    made.adopt(node(1), {"n2": node(2), "n3": node(3)}, NETWORK, FACTS, 21.0)
    assert only(made).loss == {"underlay": 0, "overlay": 0}
    made.adopt(node(1), {"n2": node(2, probe_port=9), "n3": node(3)}, NETWORK, FACTS, 22.0)
    assert only(made).loss == {"underlay": None, "overlay": None}


def test_many_peers_are_asked_less_often() -> None:
    """The packets of a second are bounded, and spread."""
    made = rounds(*range(2, 5002))
    assert 40 < made.interval < 50
    count, most = 0, 0
    for tenth in range(600):
        sent = list(made.due(tenth / 10))
        list(made.expire(tenth / 10))
        count += len(sent)
        most = max(most, len(sent))
    assert 0.8 * MOST_PER_SECOND < count / 60 < 1.1 * MOST_PER_SECOND
    assert most < MOST_PER_SECOND / 2


def test_searches_are_few_at_a_time_and_all_end() -> None:
    """A switch that swallows large packets concerns all peers at once."""
    made = rounds(*range(2, 102), seconds=1.0)
    most = 0
    for tenth in range(1200):
        now = tenth / 10
        answer_all(made, made.due(now), now, 1400)
        answer_all(made, made.expire(now), now, 1400)
        most = max(most, len(made._searches))
    assert most == 20
    assert {one.path_mtu for one in made.health(120.0)} == {1400}
    assert all("more than 1400 bytes are lost on the way" in one.problem for one in made.health(120.0))
    assert not made._searches


def test_nothing_is_kept_of_what_is_over() -> None:
    """Whatever comes back or does not."""
    made = rounds(2, 3, seconds=1.0)
    for tenth in range(1000):
        for one in made.due(tenth / 10):
            if tenth % 3 == 0:
                list(made.fault(one.token, 111, tenth / 10, late=True))
            elif tenth % 3 == 1:
                answer_all(made, [one], tenth / 10)
        answer_all(made, made.expire(tenth / 10), tenth / 10)
    list(made.expire(200.0))
    assert not made._pending
    assert not made._order
    assert len(made._turns) == 2
