"""A Pod of Kubernetes, cut down to what policies read of it: the rest, most of its JSON, is skipped and never made.

What a field holds is not judged here: that is for whoever reads the document.
"""

from typing import Any

import msgspec

from cni_py.model.policy import ADDRESSES_ANNOTATION


class _Part(msgspec.Struct, omit_defaults=True):
    """What is missing stays missing."""


class _Annotations(_Part):
    addresses: Any = msgspec.field(name=ADDRESSES_ANNOTATION, default=None)


class _Metadata(_Part):
    name: Any = None
    namespace: Any = None
    uid: Any = None
    creationTimestamp: Any = None  # noqa: N815  # as the API spells it
    labels: Any = None
    annotations: _Annotations | None = None


class _Port(_Part):
    name: Any = None
    protocol: Any = None
    containerPort: Any = None  # noqa: N815  # as above


class _Container(_Part):
    ports: list[_Port] | None = None


class _Spec(_Part):
    nodeName: Any = None  # noqa: N815  # as above
    hostNetwork: Any = None  # noqa: N815  # as above
    containers: list[_Container] | None = None
    initContainers: list[_Container] | None = None  # noqa: N815  # as above


class _Status(_Part):
    phase: Any = None
    podIP: Any = None  # noqa: N815  # as above
    podIPs: Any = None  # noqa: N815  # as above
    hostIP: Any = None  # noqa: N815  # as above
    hostIPs: Any = None  # noqa: N815  # as above


class _Pod(_Part):
    metadata: _Metadata | None = None
    spec: _Spec | None = None
    status: _Status | None = None


_POD = msgspec.json.Decoder(_Pod)


def decode(raw: msgspec.Raw) -> object:
    """The plain document of what is read. Raises msgspec.MsgspecError."""
    return msgspec.to_builtins(_POD.decode(raw))
