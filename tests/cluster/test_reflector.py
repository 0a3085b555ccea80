"""List and watch against an API server that does all that API servers do, and all that they should not."""

import json
import time
from dataclasses import replace

import pytest
from aiohttp import web
from cluster.fake_api import FakeApi, bookmark, error, event, node, refuse, say
from cluster.kube_told import QUICK, reflecting

from cni_py.cluster.reflector import Unreadable


def seen(name: str, other: str = "x", uid: str = "") -> dict[str, tuple[str, str]]:
    """What is told of a Node."""
    return {name: (uid or f"uid-{name}", other)}


def changed(name: str, other: str, uid: str = "") -> dict[str, object]:
    """A Node whose annotation is another."""
    object_ = node(name, uid=uid)
    object_["metadata"]["annotations"]["other"] = other
    return object_


def test_everything_first_then_what_changes(api: FakeApi) -> None:
    """By a streaming list; each change once, heartbeats and duplicates never."""
    api.put(node("n1"))
    api.put(node("n2"))
    with reflecting(api) as told:
        assert told.next() == seen("n1") | seen("n2")
        query = api.next("initial")
        assert query.pop("timeoutSeconds").isdigit()
        assert query == {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "sendInitialEvents": "true",
            "resourceVersionMatch": "NotOlderThan",
        }
        for beat in range(3):
            api.put(node("n1", conditions=[{"type": "Ready", "lastHeartbeatTime": str(beat)}]))
        api.emit("ADDED", node("n2"))
        api.put(changed("n2", "y"))
        assert told.next() == seen("n2", "y")
        api.delete("n1")
        assert told.next() == {"n1": None}
        api.emit("DELETED", node("n1"))  # again
        api.put(node("n3"))
        assert told.next() == seen("n3")


def test_nothing_is_also_told(api: FakeApi) -> None:
    """An empty list."""
    with reflecting(api) as told:
        assert told.next() == {}
        api.put(node("n1"))
        assert told.next() == seen("n1")


@pytest.mark.parametrize("code", [400, 422])
def test_an_older_server_is_read_in_pages(api: FakeApi, code: int) -> None:
    """It refuses a streaming list, and is asked for one only once."""
    for number in range(5):
        api.put(node(f"n{number}"))
    api.script("initial", refuse(code, "sendInitialEvents is forbidden"))
    with reflecting(api) as told:
        assert told.next() == {f"n{number}": (f"uid-n{number}", "x") for number in range(5)}
        assert [api.next("list") for _ in range(3)] == [
            {"limit": "500"},
            {"limit": "500", "continue": "2"},
            {"limit": "500", "continue": "4"},
        ]
        assert api.next("watch")["resourceVersion"] == str(api.version)
        api.put(changed("n1", "y"))
        assert told.next() == seen("n1", "y")
        api.raw(error(410))
        assert api.next("list") == {"limit": "500"}
        assert told.troubles.get(timeout=30) == ""


def test_a_server_with_an_older_etcd(api: FakeApi) -> None:
    """Its streaming list is an ERROR at once. That is no trouble, and not tried again before the next gap."""
    api.put(node("n1"))
    api.script("initial", say(error(500), then=False))
    with reflecting(api, replace(QUICK, first=100.0, most=100.0)) as told:
        assert told.next() == seen("n1")
        assert api.next("watch")["resourceVersion"] == str(api.version)
        assert not any(told.troubles.queue)


def test_pages_that_got_too_old_are_read_anew(api: FakeApi) -> None:
    """410 between two pages: from the first on, and nothing of the half list is told."""
    for number in range(3):
        api.put(node(f"n{number}"))

    async def second_page(server: FakeApi, _: web.Request) -> web.StreamResponse:
        del server.nodes["n0"]
        return web.json_response({"code": 410}, status=410)

    api.script("initial", refuse(422))
    api.script("list", FakeApi.page, second_page)
    with reflecting(api) as told:
        assert told.next() == seen("n1") | seen("n2")


@pytest.mark.parametrize("end", [error(410), error(500)])
def test_after_a_gap_only_differences_are_told(api: FakeApi, end: bytes) -> None:
    """An ERROR frame: everything is read again, nobody is told that anything went away which is there."""
    for name in ("kept", "changed", "gone"):
        api.put(node(name))
    with reflecting(api) as told:
        assert len(told.next()) == 3
        api.nodes["changed"] = changed("changed", "y")
        api.nodes["new"] = node("new")
        del api.nodes["gone"]
        api.next("initial")
        api.raw(end)
        api.next("initial")
        assert told.next() == {"gone": None} | seen("changed", "y") | seen("new")
        api.raw(end)  # nothing has happened meanwhile
        api.next("initial")
        api.put(changed("kept", "z"))
        assert told.next() == seen("kept", "z")
        reasons = [reason for reason in told.troubles.queue if reason]
        assert bool(reasons) == (end == error(500))  # a version that is too old is nobody's trouble


def test_a_watch_that_is_too_old_for_the_server(api: FakeApi) -> None:
    """410 as the answer to the request itself."""
    api.put(node("n1"))
    api.script("watch", refuse(410))
    with reflecting(api) as told:
        assert told.next() == seen("n1")
        api.next("initial")
        api.nodes["n1"] = changed("n1", "y")
        api.raw(None)
        api.next("watch")
        api.next("initial")
        assert told.next() == seen("n1", "y")


def test_a_watch_goes_on_where_it_ended(api: FakeApi) -> None:
    """From the last version that was seen, be it an event's or a bookmark's; versions are opaque."""
    api.put(node("n1"))
    with reflecting(api) as told:
        assert told.next() == seen("n1")
        api.put(changed("n1", "y"))
        assert told.next() == seen("n1", "y")
        last = api.version
        api.raw(None)
        assert api.next("watch")["resourceVersion"] == str(last)
        moved = json.loads(bookmark(0))
        moved["object"]["metadata"]["resourceVersion"] = "opaque"
        api.raw(json.dumps(moved).encode() + b"\n")
        api.raw(None)
        assert api.next("watch")["resourceVersion"] == "opaque"


def test_a_watch_that_ends_at_once_is_no_hot_loop(api: FakeApi) -> None:
    """Each pause is longer than the one before, up to the limit."""
    ends = 6
    api.script("watch", *[say(then=False)] * ends)
    timing = replace(QUICK, first=0.05, most=0.4)
    with reflecting(api, timing) as told:
        told.next()
        begin = time.monotonic()
        api.raw(None)
        for _ in range(ends + 1):
            api.next("watch")
        spent = time.monotonic() - begin
    assert spent > 0.5 * (0.05 + 0.1 + 0.2 + 0.4 + 0.4 + 0.4 + 0.4)


def test_a_silent_connection_is_taken_for_dead(api: FakeApi) -> None:
    """Half-open TCP: it is watched anew from where it was, and that is no trouble."""
    api.put(node("n1"))
    with reflecting(api, replace(QUICK, quiet=0.3)) as told:
        assert told.next() == seen("n1")
        assert told.troubles.get(timeout=30) == ""
        assert api.next("watch")["resourceVersion"] == str(api.version)
        api.put(changed("n1", "y"))
        assert told.next() == seen("n1", "y")
        assert not any(told.troubles.queue)


@pytest.mark.parametrize("then", [True, False])
def test_initial_events_that_never_end(api: FakeApi, then: bool) -> None:
    """A server that ignores sendInitialEvents: no bookmark comes, so it is read in pages, until the next gap."""
    api.put(node("n1"))
    begin = event("ADDED", node("n0"))  # what began and was never finished is not believed
    api.script("initial", say(begin, then=then))
    with reflecting(api, replace(QUICK, quiet=0.3)) as told:
        assert told.next() == seen("n1")
        api.next("list")
        api.next("watch")
        api.raw(error(410))
        api.next("initial")


@pytest.mark.parametrize("code", [429, 503])
def test_the_server_says_when(api: FakeApi, code: int) -> None:
    """Retry-After is kept to."""
    api.script("initial", refuse(code, "too many", Retry_After="1"))
    with reflecting(api) as told:
        begin = time.monotonic()
        reason = told.troubled("too busy")
        assert "too many" in reason
        told.troubled("")
        assert time.monotonic() - begin > 0.9
        assert told.next() == {}


def test_a_token_is_read_again(api: FakeApi) -> None:
    """401 until the file holds the new one."""
    api.put(node("n1"))
    api.token = "second"  # noqa: S105  # a test's
    with reflecting(api) as told:
        told.troubled("(401)")
        assert not told.news.qsize()
        api.token_file.write_text("second")
        assert told.next() == seen("n1")
        told.troubled("")


def test_a_ca_is_read_again(api: FakeApi) -> None:
    """The server's certificate is by another CA; the file changes only later."""
    old = api.ca.read_text()
    with reflecting(api) as told:
        told.next()
        api.down()
        api.renew()
        new = api.ca.read_text()
        api.ca.write_text(old)
        api.up()
        told.troubled("is not who it should be")
        api.ca.write_text(new)
        told.troubled("")


def test_a_server_that_is_not_there(api: FakeApi) -> None:
    """In words what, and nothing is told to be gone; then it is fine again."""
    api.put(node("n1"))
    with reflecting(api) as told:
        assert told.next() == seen("n1")
        api.down()
        assert "cannot be reached: Connection refused" in told.troubled("cannot be reached")
        api.nodes["n2"] = node("n2")
        api.script("watch", refuse(410))
        api.up()
        assert told.next() == seen("n2")
        told.troubled("")


def test_a_large_object_is_an_object(api: FakeApi) -> None:
    """2 MiB in one line, then one of a page."""
    large = changed("n1", "y")
    large["status"] = {"images": ["x" * 1000] * 2100}
    with reflecting(api) as told:
        told.next()
        api.put(large)
        assert told.next() == seen("n1", "y")
    api.script("initial", refuse(422))
    with reflecting(api) as told:
        assert told.next() == seen("n1", "y")


def test_what_is_too_long_is_named_and_skipped(api: FakeApi) -> None:
    """The watch goes on; the object is there again when it is shorter, and goes when it is deleted."""
    long = changed("n1", "y")
    long["status"] = {"images": ["x" * 1000] * 100}
    api.put(node("n1"))
    with reflecting(api, most_bytes=20_000) as told:
        assert told.next() == seen("n1")
        api.put(long)
        (reason,) = told.next().values()
        assert isinstance(reason, Unreadable)
        assert "bytes, more than 20000" in reason.reason
        api.put(node("n2"))
        assert told.next() == seen("n2")
        api.put(changed("n1", "z"))
        assert told.next() == seen("n1", "z")
        api.put(long)
        assert isinstance(told.next()["n1"], Unreadable)
        api.emit("DELETED", node("n1"))
        assert told.next() == {"n1": None}
        assert api.asked.qsize() == 1  # all in one watch


def test_what_is_no_object_is_named_and_skipped(api: FakeApi) -> None:
    """Truncated JSON and wrong types, in the watch and at its beginning."""
    api.put(node("n0"))
    api.nodes["n0"]["metadata"]["uid"] = "none"
    api.nodes["n0"]["metadata"]["annotations"] = {"other": 1}
    with reflecting(api) as told:
        assert "not as it should be" in told.next()["n0"].reason
        api.raw(event("MODIFIED", {"kind": "Node", "metadata": {"name": "n1"}})[:-3] + b"\n")
        assert "no JSON" in told.next()["n1"].reason
        api.put(node("n1"))
        assert told.next() == seen("n1")
        assert api.asked.qsize() == 1


@pytest.mark.parametrize(
    "garbage",
    [b"\x00\xff\n", b"null\n", b"[" * 100_000 + b"\n", b'{"type": 1}\n', b'{"type": "ADDED", "object": []}\n'],
)
def test_after_garbage_everything_is_read_again(api: FakeApi, garbage: bytes) -> None:
    """What it was about does not show, so anything may have been missed."""
    api.put(node("n1"))
    with reflecting(api) as told:
        assert told.next() == seen("n1")
        api.next("initial")
        api.nodes["n2"] = node("n2")
        api.raw(garbage)
        api.next("initial")
        assert told.next() == seen("n2")


@pytest.mark.parametrize("text", ["<html>", "[]", '{"metadata": {}}'])
def test_a_list_that_is_none(api: FakeApi, text: str) -> None:
    """Garbage instead of a page is trouble, then it is read again."""

    async def no_page(_: FakeApi, __: web.Request) -> web.StreamResponse:
        return web.Response(text=text)

    api.put(node("n1"))
    api.script("initial", refuse(422))
    api.script("list", no_page)
    with reflecting(api) as told:
        told.troubled("list is not one")
        assert told.next() == seen("n1")


def test_a_name_that_is_taken_by_another(api: FakeApi) -> None:
    """DELETE and ADD with another uid: another object. A DELETE of the old that comes late changes nothing."""
    api.put(node("n1", uid="old"))
    with reflecting(api) as told:
        assert told.next() == seen("n1", uid="old")
        old = api.nodes["n1"]
        api.delete("n1")
        api.put(node("n1", uid="new"))
        assert told.until(lambda news: news["n1"] is not None) == seen("n1", uid="new")
        api.emit("DELETED", old)
        api.put(changed("n1", "y", uid="new"))
        assert told.next() == seen("n1", "y", uid="new")


def test_a_deletion_during_the_list(api: FakeApi) -> None:
    """Events that come before everything was read count."""
    api.version = 7
    api.script(
        "initial",
        say(
            event("ADDED", node("n1")),
            event("ADDED", node("n2")),
            event("DELETED", node("n1")),
            event("MODIFIED", changed("n2", "y")),
            bookmark(5),
            bookmark(7, complete=True),
        ),
    )
    with reflecting(api) as told:
        assert told.next() == seen("n2", "y")


def test_pieces_of_any_size(api: FakeApi) -> None:
    """Lines are put together byte by byte."""
    lines = event("ADDED", node("n1")) + event("ADDED", node("n2")) + bookmark(9, complete=True)
    api.script("initial", say(*(lines[at : at + 1] for at in range(len(lines)))))
    with reflecting(api) as told:
        assert told.next() == seen("n1") | seen("n2")


def test_where_a_redirect_leads_no_token_goes(api: FakeApi) -> None:
    """It is not followed."""
    api.script("initial", refuse(302, "elsewhere", Location=f"{api.url}/elsewhere"))
    with reflecting(api) as told:
        assert "refuses (302): elsewhere" in told.troubled("302")
        assert told.next() == {}
