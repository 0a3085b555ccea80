"""The operator's side of policies: what `cni-py explain`, `flows` and `policy` ask of the agent and print."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from cni_py.cmd.status import columns
from cni_py.invoke.forward import report
from cni_py.model.errors import IOFailureError, TryAgainError

_POLL_SECONDS = 0.5

_output = click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)


def ask(query: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The agent's answer. Raises TryAgainError if there is none, PluginError with its words if it refuses."""
    answer = report(query=query, arguments=json.dumps(arguments).encode())
    if answer is None:
        raise TryAgainError("no agent answers on this node", "start one: cni-py agent --roles attach,policy")
    found: dict[str, Any] = json.loads(answer)
    return found


@click.command()
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="of the destination, after DNAT")
@click.option("--protocol", default="tcp", show_default=True, help="tcp, udp, sctp, icmp or a number")
@click.option("--live", is_flag=True, help="also compare with the rules that the kernel has")
@_output
def explain(source: str, destination: str, port: int, protocol: str, live: bool, output: str) -> None:  # noqa: FBT001
    """Why packets from SRC to DST (NAMESPACE/POD or an address) pass or not. Exits 1 if they do not."""
    asked = {"source": source, "destination": destination, "port": port, "protocol": protocol, "live": live}
    found = ask("explain", asked)
    if output == "json":
        click.echo(json.dumps({key: value for key, value in found.items() if key != "text"}, indent=2))
    else:
        click.echo("\n".join(found["text"]))
        if live:
            click.echo(_live(found["live"]))
    sys.exit(1 if found["verdict"] == "deny" else 0)


def _live(live: Mapping[str, Any]) -> str:
    if live["agrees"]:
        words = "the kernel has exactly these rules"
    else:
        what = live["differing"]
        words = (
            f"the kernel's rules DIFFER: {what['chains']} chains, {what['missing']} elements missing, "
            f"{what['stray']} too many"
        )
    return f"live: {words}; it denied {live['denied_packets']} packets of this flow in the last 5 minutes"


@click.command()
@click.option("-f", "--follow", is_flag=True, help="go on, until interrupted")
@_output
def flows(follow: bool, output: str) -> None:  # noqa: FBT001  # click gives it by name
    """What policies denied lately, or would have. The kernel tells of 20 packets a second, and counts all."""
    since = 0
    while True:
        for one in ask("flows", {"since": since})["flows"]:
            since = max(since, one["number"])
            stamp = time.strftime("%H:%M:%S", time.localtime(one["time"]))
            click.echo(json.dumps(one) if output == "json" else f"{stamp} {one['line']}")
        if not follow:
            return
        time.sleep(_POLL_SECONDS)


@click.group()
def policy() -> None:
    """Network policies as this node knows them."""


@policy.command("list")
@_output
def list_(output: str) -> None:
    """Each policy, how many pods it applies to, and what of it was not understood."""
    found = ask("list", {})["policies"]
    if output == "json":
        click.echo(json.dumps(found, indent=2))
        return
    rows = [("NAMESPACE", "NAME", "PODS", "SELECTED", "DIRECTIONS", "MODE", "FLAWS")]
    for one in found:
        mode = "audit" if one["audit"] else "enforced"
        row = (one["namespace"], one["name"], one["pods"], str(one["selected"]), ",".join(one["directions"]))
        rows.append((*row, mode, "; ".join(one["flaws"])))
    click.echo("\n".join(columns(rows)))


@policy.command()
@click.argument("name", metavar="NAMESPACE/NAME")
@_output
def show(name: str, output: str) -> None:
    """A policy: whom it applies to, what it allows, how often it did. A pod: its policies, its rules in the kernel."""
    found = ask("show", {"name": name})
    if output == "json":
        click.echo(json.dumps(found, indent=2))
        return
    if "policy" in found:
        click.echo("\n".join(_policy(found["policy"])))
    if "pod" in found:
        click.echo("\n".join(_pod(found["pod"])))


def _policy(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"policy {found['name']}, {'audited only' if found['audit'] else 'enforced'}, for pods {found['pods']}"
    yield f"  applies to {', '.join(found['selected']) or 'no pod'}"
    yield from (f"  ! {one}" for one in found["flaws"])
    for direction, word in (("ingress", "from"), ("egress", "to")):
        rules = found.get(direction)
        if rules is not None and not rules:
            yield f"  {direction}: nothing"
        for one in rules or ():
            ways = f"{word} {'; '.join(one['peers']) or 'nobody'}, {', '.join(one['ports']) or 'nothing'}"
            yield f"  {direction}: {ways} ({one['connections']} connections of this node's pods)"


def _pod(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"pod {found['name']} {' '.join(found['addresses'])}"
    for direction in ("ingress", "egress"):
        half = found[direction]
        yield f"  {direction}: {', '.join(half['policies']) or 'no policy, everything passes'}"
        yield from (f"    {rule}" for rule in half["rules"])


@policy.command()
@click.argument("file", metavar="FILE")
@_output
def check(file: str, output: str) -> None:
    """What is wrong with the policies in FILE, and which of the connections of now they would cut or let through.

    Nothing is changed. Exits 1 if there are findings.
    """
    found = ask("check", {"documents": _documents(file)})
    if output == "json":
        click.echo(json.dumps(found, indent=2))
    else:
        for name, findings in found["findings"].items():
            click.echo(f"{name}: {'nothing to say against it' if not findings else ''}")
            for one in findings:
                click.echo(f"  {one}")
        for one in found["turned"]:
            source, destination = (one[f"{end}_pod"] or one[end] for end in ("source", "destination"))
            port = f" {one['port']}" if one["port"] else ""
            click.echo(f"{one['before']} -> {one['after']}: {source} to {destination} {one['protocol']}{port}")
        if not found["turned"]:
            click.echo("none of the connections of now would have another verdict")
    sys.exit(1 if any(found["findings"].values()) else 0)


def _documents(file: str) -> list[object]:
    """The NetworkPolicies in a file of YAML or JSON. Raises IOFailureError, DecodeError."""
    from cni_py.cluster.manifest import manifests

    try:
        data = Path(file).read_bytes()
    except OSError as error:
        raise IOFailureError(f"cannot read {file}: {error.strerror}", "give a file of NetworkPolicies") from None
    return [
        one
        for one in manifests(data, Path(file).suffix)
        if isinstance(one, Mapping) and one.get("kind") == "NetworkPolicy"
    ]
