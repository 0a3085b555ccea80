"""`resolvConf`: a resolv.conf file as the `dns` of a result (host-local dns.go)."""

from cni_py.model.lease import GO_SPACE
from cni_py.model.result import Dns


def parse_resolv_conf(content: bytes) -> Dns:
    """The servers, domain, search list and options in `content`; comments and what is not known are passed over."""
    servers: list[str] = []
    search: list[str] = []
    options: list[str] = []
    domain = ""
    for raw in content.decode("utf-8", "replace").split("\n"):
        line = raw.strip(GO_SPACE)
        fields = line.split()
        if line.startswith(("#", ";")) or len(fields) < 2:
            continue
        match fields[0]:
            case "nameserver":
                servers.append(fields[1])
            case "domain":
                domain = fields[1]
            case "search":
                search.extend(fields[1:])
            case "options":
                options.extend(fields[1:])
            case _:
                pass
    return Dns(nameservers=tuple(servers), domain=domain, search=tuple(search), options=tuple(options))
