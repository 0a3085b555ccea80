"""The operator's command line: what `cni-py` is when no CNI verb is asked for. click prints usage and exits 2."""

import json
import sys
from pathlib import Path

import click

from cni_py import __version__
from cni_py.cmd import policy_cli
from cni_py.model.errors import CniPyError


def cli(arguments: list[str]) -> None:
    """The command is carried out and the process ends: 0 done, 1 a problem, 2 wrong usage."""
    try:
        _commands.main(arguments, prog_name="cni-py")
    except CniPyError as error:
        click.echo(f"cni-py: {error.message}", err=True)
        if error.details:
            click.echo(f"  {error.details}", err=True)
        sys.exit(1)


_output = click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
_config = click.option(
    "--config", default="/etc/cni-py/config.yaml", show_default=True, metavar="FILE", help="of overlay and policy"
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="cni-py")
def _commands() -> None:
    """The pod network of this node. As a CNI plugin it is started by a runtime, with CNI_COMMAND set."""


@_commands.command()
@click.option("--roles", default="attach", show_default=True, help="what it does: any of attach, overlay and policy")
@_config
@click.option(
    "--listen",
    default="127.0.0.1:9761",
    show_default=True,
    metavar="ADDRESS:PORT",
    help='where /healthz, /readyz and /metrics are; "" for nowhere',
)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="how long what belongs to no living container is left alone",
)
@click.option("--conf-dir", default="", metavar="DIR", help="write the network configuration there once it serves")
@click.option("--conflist", default="", metavar="FILE", help="the configuration, if not the one that comes with cni-py")
def agent(  # an option each
    roles: str, config: str, listen: str, log_format: str, grace: float, conf_dir: str, conflist: str
) -> None:
    """Run the warm node agent until SIGTERM."""
    from cni_py.cmd.agent import Options, run

    if conflist and not conf_dir:
        raise click.UsageError("--conflist needs --conf-dir")
    chosen = tuple(roles.split(","))
    if not set(chosen) <= {"attach", "overlay", "policy"}:
        raise click.UsageError(f"--roles: {roles!r} is not of attach, overlay, policy")
    run(Options(chosen, listen, log_format, grace, conf_dir, conflist, config))


@_commands.command()
@_output
def status(output: str) -> None:
    """The agent, its calls and errors, pools and attachments. Exits 1 where no agent answers."""
    from cni_py.cmd.status import look, render

    found = look()
    click.echo(json.dumps(found, indent=2) if output == "json" else render(found), nl=output == "json")
    sys.exit(0 if found["agent"] else 1)


@_commands.command()
@_config
@_output
def routes(config: str, output: str) -> None:
    """Where this node's kernel sends packets for pods of other nodes."""
    from cni_py.cmd.routes import read_routes, table
    from cni_py.cmd.status import columns

    found = read_routes(config)
    click.echo(json.dumps(found, indent=2) if output == "json" else "\n".join(columns(table(found))))


@_commands.command()
@_config
@_output
def plan(config: str, output: str) -> None:
    """What the agent would change in the kernel now, and change nothing. Exits 1 if that is anything."""
    from cni_py.cmd.routes import planned

    steps = planned(config)
    click.echo(json.dumps(steps, indent=2) if output == "json" else "\n".join(steps) or "nothing to do")
    sys.exit(1 if steps else 0)


@_commands.command()
@click.option("--bin-dir", required=True, metavar="DIR", help="where runtimes look for plugins: /opt/cni/bin")
@click.option("--conf-dir", default="", metavar="DIR", help="where they look for configurations: /etc/cni/net.d")
@click.option("--conflist", default="", metavar="FILE", help="the configuration, if not the one that comes with cni-py")
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="for the agent to answer, before the configuration is written",
)
def install(bin_dir: str, conf_dir: str, conflist: str, wait: float) -> None:
    """Put the forwarder and, when the agent answers, the network configuration where runtimes find them."""
    from cni_py.cmd.install import install

    if conflist and not conf_dir:
        raise click.UsageError("--conflist needs --conf-dir")
    for line in install(bin_dir, conf_dir, conflist, wait):
        click.echo(line, err=line.startswith("WARNING"))


@_commands.command()
@click.option("--bin-dir", required=True, metavar="DIR", help="as it was given to install")
@click.option("--conf-dir", default="", metavar="DIR", help="as it was given to install")
@click.option("--force", is_flag=True, help="also while containers are attached: they lose their network")
def uninstall(bin_dir: str, conf_dir: str, force: bool) -> None:  # noqa: FBT001  # click gives it by name
    """Remove cni-py from this node and show that nothing of it is left. Exits 1 if something is."""
    from cni_py.cmd.uninstall import Target, uninstall

    left = uninstall(Target(bin_dir, conf_dir), force=force, program=Path(sys.argv[0]), say=click.echo)
    if not left:
        click.echo("nothing of cni-py is left")
        return
    click.echo("\n".join(("left of cni-py:", *(f"  {line}" for line in left))), err=True)
    sys.exit(1)


for _command in (policy_cli.explain, policy_cli.flows, policy_cli.policy):
    _commands.add_command(_command)


@_commands.group()
def ipam() -> None:
    """Addresses of this node's pools."""


@ipam.command()
@click.argument("network", required=False)
@click.option("--data-dir", default="/var/lib/cni/networks", show_default=True, help="where the leases are")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def show(network: str | None, data_dir: str, output: str) -> None:
    """Pools, their use, and each lease: address, owner, age."""
    from cni_py.cmd.ipam_show import render

    click.echo(render(Path(data_dir), network, as_json=output == "json"), nl=False)
