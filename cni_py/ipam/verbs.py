"""The six verbs of the IPAM plugin, less VERSION: a request and a lease store in, the result out.

ADD, CHECK and DEL are host-local's. GC and STATUS, which it lacks, follow SPEC 1.1 section 2. Two departures:

- ADD is one transaction over all range sets. When a set has no address, only what this ADD reserved is released;
  host-local releases everything that the container holds, even the address an earlier ADD gave it.
- DEL on a read-only disk is an error if there is something to release. host-local says 0 and keeps the address.

DEL with an invalid configuration is an error, as in host-local: without it nobody knows where the leases are. SPEC asks
DEL to succeed as far as it can, so what a release does not need (our options, unknown keys) is not looked at.
"""

from collections.abc import Callable

from cni_py.ipam.addresses import parse_ip
from cni_py.ipam.allocator import Want, allocate, exhausted, givable, tally
from cni_py.ipam.attachments import valid_contents
from cni_py.ipam.config import IpamConfig, data_dir_of, ipam_object, parse_config, release_options
from cni_py.ipam.ports import LeaseStore
from cni_py.ipam.requested import owner_names
from cni_py.ipam.resolv import parse_resolv_conf
from cni_py.model.errors import CheckFailedError, IOFailureError, NoAddressError, UnavailableError
from cni_py.model.lease import Holder, Lease, Pool
from cni_py.model.result import Dns, IPConfig, Result
from cni_py.spec import gojson
from cni_py.spec.request import Request
from cni_py.spec.result import parse_result

# The content of a file that the configuration names; raises IOFailureError.
ReadFile = Callable[[str], bytes]


def add(request: Request, store: LeaseStore, read_file: ReadFile, *, attached: str = "") -> Result:
    """The container's addresses, one of each range set, are reserved. All or none.

    `attached`: our own main plugin asks, and records the attachment next, below that state directory.

    Raises what `parse_config` and `allocate` raise, and IOFailureError.
    """
    config = parse_config(request, strict=True)
    dns = parse_resolv_conf(read_file(config.resolv_conf)) if config.resolv_conf else Dns()
    want = Want(Holder(request.container_id, request.ifname, attached=attached), owner_names(request), config.options)
    requested = list(config.requested)
    ips: list[IPConfig] = []
    with store.change(config.data_dir, config.network) as leases:
        for position, pool in enumerate(config.sets):
            wish = next((address for address in requested if pool.range_of(address)), None)
            if wish is not None:
                requested.remove(wish)
            ips.append(allocate(leases, want, position, pool, wish))
        if requested:
            raise NoAddressError(
                "failed to allocate all requested IPs: " + " ".join(str(address) for address in requested),
                "each range set gives one address: the others lie in no range, or in one whose set gave its own",
            )
        leases.remember(tuple(Pool(str(pool), givable(pool, config.options)) for pool in config.sets))
    return Result(ips=tuple(ips), routes=config.routes, dns=dns)


def delete(request: Request, store: LeaseStore) -> None:
    """The container's interface holds no lease. Nothing to release is success."""
    config = parse_config(request, strict=False)
    holder = Holder(request.container_id, request.ifname)
    errors: list[IOFailureError] = []
    with store.change(config.data_dir, config.network) as leases:
        for content in (holder.content, holder.old_content):
            names = leases.held(content)
            for name in names:
                try:
                    leases.release(Lease(name, content), config.options.reuse_delay_s)
                except IOFailureError as error:
                    errors.append(error)
            if names:  # files of the old format go only when there is none of the new (disk/backend.go ReleaseByID)
                break
    _report(errors)


def check(request: Request, store: LeaseStore) -> None:
    """The container holds a lease, and each address of prevResult that is in a range is one of them."""
    config = parse_config(request, strict=True)
    holder = Holder(request.container_id, request.ifname)
    store.prepare(config.data_dir, config.network)
    with store.look(config.data_dir, config.network) as leases:
        held = {*leases.held(holder.content), *leases.held(holder.old_content)}
    again = "delete the container and let its runtime make it anew"
    if not held:
        raise CheckFailedError(f"host-local: Failed to find address added by container {request.container_id}", again)
    for ip in _previous(request):
        name = str(ip.address.ip)
        in_range = any(pool.range_of(ip.address.ip) for pool in config.sets)
        if in_range and name not in held:
            raise CheckFailedError(
                f"address {name} of interface {request.ifname} is not reserved for container {request.container_id}",
                again,
            )


def collect_garbage(request: Request, store: LeaseStore) -> None:
    """Every lease of the network that is in no valid attachment is released; errors are reported at the end."""
    ipam = ipam_object(request.config)
    valid = valid_contents(request.config)
    if valid is None:
        return
    delay = release_options(ipam).reuse_delay_s
    errors: list[IOFailureError] = []
    with store.change(data_dir_of(ipam), request.network) as leases:
        for lease in leases.leases():
            if lease.content not in valid and parse_ip(lease.name) is not None:
                try:
                    leases.release(lease, delay)
                except IOFailureError as error:
                    errors.append(error)
    _report(errors)


def status(request: Request, store: LeaseStore) -> None:
    """An ADD would find a good configuration, a usable directory and an address in every set.

    Raises what ADD would for the configuration, UnavailableError for the rest.
    """
    config = parse_config(request, strict=True)
    store.check_usable(config.data_dir, config.network)
    with store.look(config.data_dir, config.network) as leases:
        for pool in config.sets:
            cooling = leases.cooling(pool.version, config.options.reuse_delay_s)
            spent = tally(pool, config.options, leases.taken(pool.version), cooling)
            if spent.free <= 0:
                full = exhausted("", pool, spent)
                raise UnavailableError(full.message, _pool_details(config, full.details))


def _pool_details(config: IpamConfig, details: str) -> str:
    return f"network {config.network}: {details}"


def _previous(request: Request) -> tuple[IPConfig, ...]:
    document = gojson.get_object(request.config, "prevResult")
    return parse_result(document, request.cni_version, same_family=True).ips if document else ()


def _report(errors: list[IOFailureError]) -> None:
    if errors:
        raise IOFailureError(";".join(error.message for error in errors)[:2000], errors[0].details)
