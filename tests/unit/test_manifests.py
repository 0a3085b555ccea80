"""Pods, Namespaces and NetworkPolicies from a directory: what is read, what stays in force, what is told."""

import json
import queue
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cni_py.cluster.manifest import KINDS
from cni_py.cluster.manifests import Manifests
from cni_py.model.errors import DecodeError, IOFailureError

_WAIT_SECONDS = 30
_Changes = Mapping[str, Mapping[str, str | None]]


def told(document: object) -> str:
    """Of a document that is understood, what its label `is` says."""
    assert isinstance(document, dict)
    said = document["metadata"].get("labels", {}).get("is", "")
    if said == "bad":
        raise DecodeError("it is bad")
    assert isinstance(said, str)
    return said


class Listener:
    """A directory, and what is told of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.changes: queue.SimpleQueue[tuple[_Changes, Mapping[str, str]]] = queue.SimpleQueue()
        self.trouble: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.source = Manifests(
            directory, dict.fromkeys(KINDS, told), lambda *both: self.changes.put(both), self.trouble.put
        )

    def next(self) -> tuple[dict[str, str | None], Mapping[str, str]]:
        """The changes that are told next, {KIND KEY: what it says}, and what is wrong."""
        changes, wrong = self.changes.get(timeout=_WAIT_SECONDS)
        assert changes.keys() == KINDS.keys()
        flat = {f"{kind} {key}": value for kind, objects in changes.items() for key, value in objects.items()}
        return flat, wrong

    def write(self, name: str, *objects: Mapping[str, Any] | str) -> None:
        """As it should be done: beside its place, then renamed."""
        beside = self.directory / f".{name}.new"
        beside.write_text("\n---\n".join(one if isinstance(one, str) else json.dumps(one) for one in objects))
        beside.rename(self.directory / name)


def policy(name: str, said: str = "1", **more: Any) -> dict[str, Any]:
    """A NetworkPolicy."""
    metadata = {"namespace": "shop", "name": name, "labels": {"is": said}}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, **more}


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    """A directory that holds the policy `a`, and has told so."""
    directory = tmp_path / "manifests"
    directory.mkdir()
    one = Listener(directory)
    one.write("a.yaml", policy("a"))
    one.source.start()
    assert one.next() == ({"NetworkPolicy shop/a": "1"}, {})
    yield one
    one.source.stop()


def test_an_empty_directory_is_told_of(tmp_path: Path) -> None:
    """So everything that there is has been told."""
    one = Listener(tmp_path)
    one.source.start()
    assert one.next() == ({}, {})
    one.source.stop()


def test_all_kinds_and_forms(listener: Listener) -> None:
    """YAML of several documents, JSON, Lists, lists of one kind; a namespace that is not given is `default`."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
    listener.write("b.yml", "# nothing", space, "", policy("b"))
    assert listener.next() == ({"Namespace shop": "", "NetworkPolicy shop/b": "1"}, {})
    listener.write("c.json", {"apiVersion": "v1", "kind": "List", "items": [pod, policy("c")]})
    assert listener.next() == ({"Pod default/p": "", "NetworkPolicy shop/c": "1"}, {})
    bare = [{"metadata": {"name": "q", "namespace": "shop"}}]
    listener.write("d.json", {"apiVersion": "v1", "kind": "PodList", "items": bare})
    assert listener.next() == ({"Pod shop/q": ""}, {})
    listener.write(".e.json", policy("e"))
    listener.write("e.txt", policy("e"))
    listener.write("f.yaml", "{apiVersion: v1, kind: PodList, items: []}", policy("f"))
    assert listener.next() == ({"NetworkPolicy shop/f": "1"}, {})


def test_changes_and_removals_are_told(listener: Listener) -> None:
    """Of an object within a file, and of the file."""
    listener.write("a.yaml", policy("a", "2"), policy("b"))
    assert listener.next() == ({"NetworkPolicy shop/a": "2", "NetworkPolicy shop/b": "1"}, {})
    listener.write("a.yaml", policy("b"))
    assert listener.next() == ({"NetworkPolicy shop/a": None}, {})
    (listener.directory / "a.yaml").unlink()
    assert listener.next() == ({"NetworkPolicy shop/b": None}, {})


def test_a_file_that_is_away_for_a_moment_was_never_away(listener: Listener) -> None:
    """As editors do it."""
    path = listener.directory / "a.yaml"
    path.rename(listener.directory / "a.yaml~")
    path.write_text(json.dumps(policy("a", "2")))
    assert listener.next() == ({"NetworkPolicy shop/a": "2"}, {})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "it is no YAML"),
        ("", "it is empty"),
        ("# later", "it is empty"),
        ("[" * 10_000, "it is nested too deeply"),
        ("a: &a 1\nb: *a", "aliases are not for this"),
        ("x" * (4 << 20) + "x", "it has more than 4194304 bytes"),
        ("five", "'five' is no object of the API"),
        ("{kind: Pod}", "an object without a kind and an apiVersion"),
        ("{apiVersion: v1, kind: Pod}", "a Pod without a name"),
        ("{apiVersion: v1, kind: Pod, metadata: {name: ''}}", "a Pod without a name"),
        ("{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: 5}}", "a Pod without a name"),
        ("{apiVersion: v1, kind: List, items: 5}", "the items of a List are no list but 5"),
        ("{apiVersion: crd.projectcalico.org/v1, kind: NetworkPolicy}", "only networking.k8s.io/v1 is known"),
        (json.dumps(policy("a", "bad")), "NetworkPolicy 'shop/a': it is bad"),
    ],
)
def test_a_file_that_is_not_understood(listener: Listener, text: str, why: str) -> None:
    """What it held last stays in force until it is again."""
    listener.write("a.yaml", text)
    changes, wrong = listener.next()
    assert (changes, list(wrong)) == ({}, ["a.yaml"])
    assert why in wrong["a.yaml"]
    assert len(wrong["a.yaml"]) < 300
    listener.write("a.yaml", policy("b"))
    assert listener.next() == ({"NetworkPolicy shop/a": None, "NetworkPolicy shop/b": "1"}, {})


def test_what_is_good_of_a_file_counts(listener: Listener) -> None:
    """And nothing goes as long as something is wrong."""
    listener.write("a.yaml", policy("b"), policy("c", "bad"))
    assert listener.next() == ({"NetworkPolicy shop/b": "1"}, {"a.yaml": "NetworkPolicy 'shop/c': it is bad"})
    listener.write("a.yaml", policy("b"))
    assert listener.next() == ({"NetworkPolicy shop/a": None}, {})


def test_other_kinds_are_named_and_passed_over(listener: Listener) -> None:
    """They keep nothing in force."""
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}}
    listener.write("a.yaml", service, service)
    assert listener.next() == ({"NetworkPolicy shop/a": None}, {"a.yaml": "the kind 'Service' is passed over"})


def test_of_two_that_are_one_the_first_counts(listener: Listener) -> None:
    """By the files' names, whichever came first; and when it goes, the other does."""
    listener.write("b.yaml", policy("a", "other"), policy("b"), policy("b", "2"))
    changes, wrong = listener.next()
    assert changes == {"NetworkPolicy shop/b": "1"}
    assert wrong["b.yaml"].split("; ") == [
        "NetworkPolicy 'shop/b' is there twice: the first one counts",
        "NetworkPolicy 'shop/a' is in 'a.yaml' already, and that one counts",
    ]
    (listener.directory / "a.yaml").unlink()
    changes, wrong = listener.next()
    assert changes == {"NetworkPolicy shop/a": "other"}
    assert "already" not in wrong["b.yaml"]


def test_no_file_tells_too_much(listener: Listener) -> None:
    """Five reasons, and how many more there are."""
    listener.write("b.yaml", *(policy(f"p{at}", "bad") for at in range(100)))
    _, wrong = listener.next()
    assert wrong["b.yaml"].endswith("; and 95 more")


def test_a_directory_that_goes_away_changes_nothing(listener: Listener) -> None:
    """It is told, and read again when it is back."""
    assert listener.trouble.empty() or listener.trouble.get() == ""
    away = listener.directory.with_name("away")
    listener.directory.rename(away)
    assert "cannot read the directory" in listener.trouble.get(timeout=_WAIT_SECONDS)
    shutil.copy(away / "a.yaml", away / "b.yaml")
    (away / "a.yaml").unlink()
    away.joinpath("b.yaml").write_text(json.dumps(policy("b")))
    away.rename(listener.directory)
    assert listener.next() == ({"NetworkPolicy shop/a": None, "NetworkPolicy shop/b": "1"}, {})
    assert listener.trouble.get(timeout=_WAIT_SECONDS) == ""


def test_a_mounted_config_map(listener: Listener) -> None:
    """Its files are links through `..data`, which is swapped for another when any of them changes."""
    for version, name in (("1", "..1"), ("2", "..2")):
        (listener.directory / name).mkdir()
        (listener.directory / name / "b.yaml").write_text(json.dumps(policy("b", version)))
    (listener.directory / "..data").symlink_to("..1")
    (listener.directory / "b.yaml").symlink_to("..data/b.yaml")
    assert listener.next() == ({"NetworkPolicy shop/b": "1"}, {})
    (listener.directory / "..next").symlink_to("..2")
    (listener.directory / "..next").rename(listener.directory / "..data")
    assert listener.next() == ({"NetworkPolicy shop/b": "2"}, {})


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_plain_file(listener: Listener, make: Callable[[Path], None]) -> None:
    """Is named."""
    make(listener.directory / "b.yaml")
    assert listener.next() == ({}, {"b.yaml": "it is no plain file"})


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    """Is refused at the start, with what to do."""
    with pytest.raises(IOFailureError) as caught:
        Listener(tmp_path / "none").source.start()
    assert "make it" in caught.value.details
