"""CNI_ARGS: `KEY=VALUE` pairs joined by `;` (SPEC 1.1 section 2, CONVENTIONS.md), as pkg/types/args.go reads them."""

import re
from collections.abc import Container

from cni_py.model.errors import PluginError

_POD_ARGS = ("K8S_POD_NAMESPACE", "K8S_POD_NAME")
_DNS_NAME = re.compile(r"[a-z0-9](?:[-.a-z0-9]{0,251}[a-z0-9])?", re.ASCII)


def pod_name(args: str) -> str:
    """NAMESPACE/NAME of the pod in CNI_ARGS, as container runtimes give them; "" where there is none.

    What is no name that Kubernetes gives is none: it is looked up among the pods, and nothing is made of it.
    """
    names = [_value(args, name) for name in _POD_ARGS]
    return "/".join(names) if all(map(_DNS_NAME.fullmatch, names)) else ""


def pod_uid(args: str) -> str:
    """The uid of the pod in CNI_ARGS, which is compared and no more; "" where there is none."""
    return _value(args, "K8S_POD_UID")


def _value(args: str, key: str) -> str:
    return next((pair[len(key) + 1 :] for pair in args.split(";") if pair.startswith(f"{key}=")), "")


def parse_args(args: str, known: Container[str]) -> dict[str, str]:
    """The pairs whose keys are `known`. Key names are case-sensitive.

    Raises PluginError (the reference's code 999) for a malformed pair, and for an unknown key unless `IgnoreUnknown`
    is 1 or true.
    """
    values: dict[str, str] = {}
    unknown: list[str] = []
    ignore_unknown = False
    for pair in args.split(";") if args else ():
        key, _, value = pair.partition("=")
        if pair.count("=") != 1:
            raise PluginError(f'ARGS: invalid pair "{pair}"', "CNI_ARGS looks like KEY=VALUE;KEY=VALUE")
        if key == "IgnoreUnknown":
            ignore_unknown = _parse_bool(value, pair)
        elif key in known:
            values[key] = value
        else:
            unknown.append(pair)
    if unknown and not ignore_unknown:
        quoted = " ".join(f'"{pair}"' for pair in unknown)
        raise PluginError(f"ARGS: unknown args [{quoted}]", "add IgnoreUnknown=1 to CNI_ARGS to pass them by")
    return values


def _parse_bool(value: str, pair: str) -> bool:
    if value.lower() in ("1", "true"):
        return True
    if value.lower() in ("0", "false"):
        return False
    raise PluginError(f'ARGS: error parsing value of pair "{pair}": boolean unmarshal error: invalid input {value}')
