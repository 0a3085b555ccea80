"""The directory as a source of nodes: what is read, what is skipped, and that changes are told."""

import json
import os
import queue
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cni_py.cluster.files import FileSource
from cni_py.model.errors import IOFailureError
from cni_py.model.peers import View

_WAIT_SECONDS = 30


class Listener:
    """A sink that a test can wait on."""

    def __init__(self) -> None:
        self.told: queue.SimpleQueue[View | str] = queue.SimpleQueue()

    def changed(self, view: View) -> None:
        """See Sink."""
        self.told.put(view)

    def trouble(self, reason: str) -> None:
        """See Sink."""
        self.told.put(reason)

    def until(self, true: Callable[[View | str], bool]) -> View | str:
        """The first that it is true of."""
        while True:
            told = self.told.get(timeout=_WAIT_SECONDS)
            if true(told):
                return told

    def view(self) -> View:
        """The next view."""
        told = self.until(lambda one: isinstance(one, View))
        assert isinstance(told, View)
        return told


def record(number: int, **more: Any) -> dict[str, Any]:
    """A node's record."""
    return {"version": 1, "ipv4": f"192.0.2.{number}", "cidrs": [f"10.244.{number}.0/24"], **more}


def write(path: Path, text: str) -> None:
    """As it should be done: beside its place, then renamed."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text)
    beside.rename(path)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """With one node."""
    nodes = tmp_path / "nodes"
    nodes.mkdir()
    write(nodes / "n1.json", json.dumps(record(1)))
    return nodes


@pytest.fixture
def sink(directory: Path) -> Iterator[Listener]:
    """Listens to the directory."""
    listener = Listener()
    source = FileSource(directory, "c")
    source.start(listener)
    yield listener
    source.stop()


def test_what_is_there_is_told_first(sink: Listener) -> None:
    """One view of all."""
    view = sink.view()
    assert list(view.nodes) == ["n1"]
    assert not view.skipped


def test_files_that_come_change_and_go(directory: Path, sink: Listener) -> None:
    """YAML and JSON; a file that is closed, renamed into place, renamed away, deleted."""
    sink.view()
    write(directory / "n2.yaml", "version: 1\nipv4: 192.0.2.2\nmac: 10:20:30:40:50:06\ncidrs: [10.244.2.0/24]\n")
    view = sink.view()
    assert (str(view.nodes["n2"].ip4), view.nodes["n2"].mac) == ("192.0.2.2", "10:20:30:40:50:06")
    with (directory / "n2.yaml").open("a") as file:  # not renamed, only closed
        file.write("probe: 9762\n")
    assert sink.view().nodes["n2"].probe_port == 9762
    (directory / "n2.yaml").rename(directory / "n3.yaml")
    sink.until(lambda one: isinstance(one, View) and set(one.nodes) == {"n1", "n3"})
    (directory / "n1.json").unlink()
    assert set(sink.view().nodes) == {"n3"}


def test_what_says_nothing_new_is_not_told(directory: Path, sink: Listener) -> None:
    """A file written again, temporary files, files of other kinds."""
    sink.view()
    write(directory / "n1.json", json.dumps(record(1)))
    (directory / "README.md").write_text("x")
    (directory / ".n9.json").write_text(json.dumps(record(9)))
    write(directory / "n2.json", json.dumps(record(2)))
    assert set(sink.view().nodes) == {"n1", "n2"}


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("n2.json", "{", "no JSON"),
        ("n2.json", json.dumps(record(2, ipv4="127.0.0.1")), "no address at which"),
        ("n2.yaml", "version: 1\nversion: 1\n", "twice"),
        ("n2.yaml", "a: &a [1]\nb: *a\n", "aliases"),
        ("n2.yaml", "? [1]\n: 2\n", "no YAML"),
        ("n2.yaml", "!!python/object/apply:os.system ['false']", "no YAML"),
        ("n2.yaml", "version: 1\nipv4: yes\n", "no address"),
        ("n2.yaml", "[" * 10_000, "nested too deeply"),
        ("n2.yml", "x: " + "a" * (1 << 20), "more than 65536 bytes"),
        ("n2\n.json", json.dumps(record(2)), "no name"),
        ("n1.yaml", json.dumps(record(2)), "another file"),
    ],
)
def test_what_is_wrong_is_skipped_and_named(directory: Path, sink: Listener, name: str, text: str, why: str) -> None:
    """The others stay."""
    sink.view()
    write(directory / name, text)
    view = sink.view()
    assert set(view.nodes) == {"n1"}
    assert why in view.skipped[name]


def test_what_is_no_plain_file_is_skipped(directory: Path, sink: Listener) -> None:
    """Nobody waits for the other end of a pipe."""
    sink.view()
    os.mkfifo(directory / "n2.json")
    assert "no plain file" in sink.view().skipped["n2.json"]


def test_a_link_is_followed_and_a_mounted_configmap_understood(directory: Path, sink: Listener) -> None:
    """Its files are links into a directory that is swapped as a whole, under names that say nothing."""
    sink.view()
    for version, probe in (("..1", 1), ("..2", 2)):
        (directory / version).mkdir()
        (directory / version / "n2.json").write_text(json.dumps(record(2, probe=probe)))
    (directory / "..data").symlink_to("..1")
    (directory / "n2.json").symlink_to("..data/n2.json")
    sink.until(lambda one: isinstance(one, View) and one.nodes.get("n2") is not None)
    (directory / "..data_tmp").symlink_to("..2")
    (directory / "..data_tmp").rename(directory / "..data")
    assert sink.view().nodes["n2"].probe_port == 2


def test_the_directory_goes_and_comes_back(directory: Path, sink: Listener) -> None:
    """It is told, what was last said counts; then all is read anew."""
    sink.view()
    directory.rename(directory.with_name("away"))
    reason = sink.until(lambda one: isinstance(one, str) and bool(one))
    assert str(directory) in str(reason)
    write(directory.with_name("away") / "n2.json", json.dumps(record(2)))
    directory.with_name("away").rename(directory)
    assert set(sink.view().nodes) == {"n1", "n2"}
    assert sink.until(lambda one: isinstance(one, str)) == ""
    shutil.rmtree(directory)


def test_a_directory_that_never_was_is_said_at_the_start(tmp_path: Path) -> None:
    """A wrong path in a configuration."""
    with pytest.raises(IOFailureError, match="cannot read the directory"):
        FileSource(tmp_path / "none", "c").start(Listener())
