"""Kubernetes as the source of policies, against an API server that does all that they do, and what they should not."""

import random
from copy import deepcopy
from ipaddress import ip_address
from pathlib import Path

import pytest
from cluster.fake_api import PATHS, FakeApi, error, event, refuse
from cluster.kube_told import QUICK, access
from cluster.policy_sink import PARSERS, Json, PolicySink, following, namespace, pod, policy

from cni_py.cluster.kube_access import KubeAccess
from cni_py.cluster.kube_policies import KubePolicies
from cni_py.model.errors import IOFailureError
from cni_py.model.policy import Changes, Cluster
from cni_py.policy import objects

PODS, NAMESPACES, POLICIES = PATHS["Pod"], PATHS["Namespace"], PATHS["NetworkPolicy"]


def expected(api: FakeApi) -> Cluster:
    """What the objects of the server come to."""
    return Cluster(
        {key: objects.pod(one) for key, one in api.objects[PODS].items()},
        {key: objects.namespace(one) for key, one in api.objects[NAMESPACES].items()},
        {key: objects.policy(one) for key, one in api.objects[POLICIES].items()},
    )


def fill(api: FakeApi) -> None:
    """A small cluster."""
    for one in (pod("a", "10.0.0.1"), pod("b", "10.0.0.2"), namespace("shop", team="x"), policy("p")):
        api.put(one)


@pytest.mark.parametrize("late", [PODS, NAMESPACES, POLICIES])
def test_nothing_is_told_before_all_is_known(api: FakeApi, late: str) -> None:
    """The first word is everything, whichever comes last; until then the trouble is told."""
    fill(api)
    api.script(f"initial {late}", *[refuse(403, "no right")] * 5)
    with following(access(api), QUICK) as (sink, _):
        assert sink.news.get(timeout=30) == Changes(*(getattr(expected(api), one) for one in Changes.__slots__))
        assert any("no right" in reason for reason in sink.troubles)
        sink.until(lambda now: not now.trouble_now)
        assert sink.news.qsize() == 0


def test_nothing_is_also_told(api: FakeApi) -> None:
    """An empty cluster."""
    with following(access(api), QUICK) as (sink, _):
        assert sink.news.get(timeout=30) == Changes({}, {}, {})


def test_what_changes_is_told_once(api: FakeApi) -> None:
    """Of each kind; what is written without changing anything that is read is not told."""
    fill(api)
    with following(access(api), QUICK) as (sink, _):
        sink.news.get(timeout=30)
        for beat in range(3):
            api.put(pod("a", "10.0.0.1", conditions=[{"type": "Ready", "lastProbeTime": str(beat)}]))
        api.emit("ADDED", pod("b", "10.0.0.2"))
        api.emit("MODIFIED", policy("p"))
        api.emit("DELETED", pod("b", uid="of-before"))  # late news of the one that had the name
        api.put(pod("a", "10.0.0.1", app="api"))
        assert sink.news.get(timeout=30) == Changes({"shop/a": objects.pod(pod("a", "10.0.0.1", app="api"))}, {}, {})
        api.put(policy("p", 81))
        assert sink.news.get(timeout=30) == Changes({}, {}, {"shop/p": objects.policy(policy("p", 81))})
        api.put(namespace("shop"))
        assert sink.news.get(timeout=30) == Changes({}, {"shop": objects.namespace(namespace("shop"))}, {})
        api.delete("shop/b", PODS)
        assert sink.news.get(timeout=30) == Changes({"shop/b": None}, {}, {})


def test_what_cannot_be_read_keeps_what_it_said(api: FakeApi) -> None:
    """And is told by name until it can be, or is gone. One that could never be read is told for what that means."""
    fill(api)
    broken = policy("q")
    broken["spec"]["podSelector"] = {"matchNothing": {}}
    api.put(broken)
    with following(access(api), QUICK) as (sink, _):
        assert "shop/q" not in sink.news.get(timeout=30).policies
        sink.until(lambda now: now.reasons)
        [(name, reason)] = sink.reasons.items()
        assert name == "NetworkPolicy shop/q"
        assert reason.startswith("it is NOT ENFORCED: spec.podSelector")

        api.put(policy("q"))
        assert sink.news.get(timeout=30).policies == {"shop/q": objects.policy(policy("q"))}
        sink.until(lambda now: not now.reasons)

        api.put(broken)
        strange = pod("a", "10.0.0.1")
        strange["metadata"]["labels"] = {"app": 5}
        api.put(strange)
        api.raw(event("MODIFIED", namespace("shop"))[:-9] + b"\n", NAMESPACES)
        sink.until(lambda now: len(now.reasons) == 3)
        assert all("what it said before counts: " in reason for reason in sink.reasons.values())
        assert sink.news.qsize() == 0

        api.delete("shop/q", POLICIES)
        assert sink.news.get(timeout=30).policies == {"shop/q": None}
        sink.until(lambda now: len(now.reasons) == 2)


def test_pods_that_were_never_readable(api: FakeApi) -> None:
    """Are nobody, and that is said; the others are told."""
    fill(api)
    strange = pod("c", "10.0.0.3")
    strange["spec"]["hostNetwork"] = "perhaps"
    api.put(strange)
    with following(access(api), QUICK) as (sink, _):
        assert sink.news.get(timeout=30).pods.keys() == {"shop/a", "shop/b"}
        sink.until(lambda now: now.reasons)
        assert "nobody's peer" in sink.reasons["Pod shop/c"]


@pytest.mark.parametrize("path", [PODS, NAMESPACES, POLICIES])
@pytest.mark.parametrize("end", [error(410), error(500), None], ids=["too old", "error", "end"])
def test_after_a_gap_only_differences_are_told(api: FakeApi, path: str, end: bytes | None) -> None:
    """Nothing goes away that is there, whichever watch broke."""
    fill(api)
    with following(access(api), QUICK) as (sink, _):
        sink.news.get(timeout=30)
        api.raw(end, path)
        api.next(f"watch {path}" if end is None else f"initial {path}")
        for one in (pod("a", "10.0.0.9"), namespace("shop", team="y"), policy("p", 82)):
            api.put(one)
        sink.until(lambda now: now.cluster == expected(api))
        told = [sink.news.get(timeout=30) for _ in range(3)]
        assert [None for one in told if None in (*one.pods.values(), *one.policies.values())] == []


def test_the_server_goes_and_comes(api: FakeApi) -> None:
    """What was told counts on; the trouble is said once although three connections have it."""
    fill(api)
    with following(access(api), QUICK) as (sink, _):
        sink.news.get(timeout=30)
        api.down()
        sink.until(lambda now: "cannot be reached" in now.trouble_now)
        api.objects[PODS]["shop/c"] = pod("c", "10.0.0.3")
        api.version += 1
        api.up()
        sink.until(lambda now: not now.trouble_now)
        assert max(reason.count("cannot be reached") for reason in sink.troubles) == 1
        assert not any(None in one.pods.values() for one in sink.news.queue)


@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_it_comes_to_what_is_there(api: FakeApi, seed: int) -> None:
    """Changes, duplicates, late news, gaps, garbage, a server that restarts: at last all is as the server has it."""
    chance = random.Random(seed)  # noqa: S311  # any
    fill(api)

    def stir() -> None:
        number = chance.randrange(6)
        made = chance.choice(
            (
                lambda: pod(f"x{number}", f"10.0.1.{chance.randrange(9)}", app=chance.choice("ab")),
                lambda: policy(f"x{number}", chance.randrange(1, 9)),
                lambda: namespace(f"x{number}", team=chance.choice("ab")),
            )
        )()
        path = PATHS[made["kind"]]
        match chance.randrange(10):
            case 0:
                api.raw(chance.choice((error(410), None, b'{"type":"MODIFIED","object":5}\n')), path)
            case 1 | 2 if api.objects[path]:
                api.delete(chance.choice(list(api.objects[path])), path)
            case 3 if api.objects[path]:
                api.emit("MODIFIED", deepcopy(chance.choice(list(api.objects[path].values()))))
            case 4:
                late = deepcopy(made)
                late["metadata"]["uid"] = "of-before"
                api.emit("DELETED", late)
            case 5 if chance.random() < 0.1:
                api.down()
                api.up()
            case _:
                api.put(made)

    with following(access(api), QUICK) as (sink, _):
        for _ in range(150):
            stir()
        sink.until(lambda now: now.cluster == expected(api))
        assert sink.reasons == {}


def announced(api: FakeApi) -> Json:
    """The next PATCH of a Pod."""
    return api.next(f"patch {PODS}")


def test_addresses_are_announced(api: FakeApi) -> None:
    """By a PATCH of this very pod, which everybody then reads; nothing is written that is there already."""
    for one in (pod("a"), pod("b", "10.0.0.2"), pod("c")):
        api.put(one)
    own = (ip_address("10.0.0.1"), ip_address("fd00::1"))
    with following(access(api), QUICK) as (sink, source):
        sink.news.get(timeout=30)
        source.announce("shop/a", own)
        assert announced(api) == {
            "type": "application/merge-patch+json",
            "pod": "shop/a",
            "uid": "uid-a",
            "annotations": {"cni-py.dev/addresses": "10.0.0.1,fd00::1"},
        }
        told = sink.news.get(timeout=30).pods["shop/a"]
        assert told is not None
        assert (told.addresses, told.announced) == (own, True)
        source.announce("shop/a", own)  # it is there
        source.announce("shop/b", own)  # its kubelet has spoken
        source.announce("shop/nobody", own)
        source.announce("shop/c", own)
        assert announced(api)["pod"] == "shop/c"
        source.announce("shop/a", own[:1])  # another sandbox
        assert announced(api)["annotations"] == {"cni-py.dev/addresses": "10.0.0.1"}


def test_what_could_not_be_announced_is_tried_again(api: FakeApi) -> None:
    """The others first, and only the last word of each; never of a pod that is gone, replaced, or has addresses."""
    for name in "abcd":
        api.put(pod(name))
    one, other = (ip_address("10.0.0.1"),), (ip_address("10.0.0.2"),)
    with following(access(api), QUICK) as (sink, source):
        sink.news.get(timeout=30)
        api.script(f"patch {PODS}", refuse(500, "not now"), refuse(404), refuse(422))
        source.announce("shop/a", one)
        assert announced(api)["pod"] == "shop/a"
        sink.until(lambda now: "the addresses of shop/a cannot be announced" in now.trouble_now)
        source.announce("shop/b", one)  # 404 or what is left of the script
        source.announce("shop/c", one)
        source.announce("shop/a", other)
        seen: list[Json] = []
        while not any(each["pod"] == "shop/a" and "10.0.0.2" in each["annotations"].values() for each in seen):
            seen.append(announced(api))
        sink.until(lambda now: now.cluster.pods["shop/a"].addresses == other)
        sink.until(lambda now: not now.trouble_now)

        api.script(f"patch {PODS}", *[refuse(503, "busy")] * 1000)
        source.announce("shop/d", one)
        announced(api)
        api.put(pod("d", "10.0.0.4"))
        sink.until(lambda now: not now.trouble_now)
        api.scripts[f"patch {PODS}"].clear()


def test_stopping_at_once(api: FakeApi) -> None:
    """Before the first word, and twice as often as needed: nothing hangs, nothing is told any more."""
    fill(api)
    sink = PolicySink()
    source = KubePolicies(access(api), PARSERS, QUICK)
    source.start(sink)
    source.stop()
    told = sink.news.qsize()
    api.put(pod("z", "10.0.0.7"))
    source.announce("shop/a", ())
    source.stop()
    assert sink.news.qsize() == told


def test_a_file_that_is_missing_is_told_at_the_start(api: FakeApi, tmp_path: Path) -> None:
    """As no waiting mends it."""
    wrong = KubeAccess(api.url, "n1", "", ca=tmp_path / "nothing", token=api.token_file)
    with pytest.raises(IOFailureError):
        KubePolicies(wrong, PARSERS, QUICK).start(PolicySink())
