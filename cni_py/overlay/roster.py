"""Who is taken to be there, while a source says this and that: nobody goes at the first word, and never all at once.

A node that a source no longer names stays for a while, as autoscalers delete and re-create their objects; only where
another claims its networks it goes at once. A record that became unreadable leaves the node as it was. And a source
that loses most of the cluster in one step is broken before the cluster is: everybody stays, an alarm says so, until the
source names them again or has said the same for an hour. One that names nobody at all is never believed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from cni_py.model.overlay import Node
from cni_py.model.peers import View

HOLD_SECONDS = 10.0
_CONFIRM_SECONDS = 3600.0
_FEW = 3  # so many may always go together


@dataclass(frozen=True, slots=True)
class Presence:
    """`nodes` are taken to be there; `alarm` says why some are that nobody names; `again` seconds until a look."""

    nodes: Mapping[str, Node]
    alarm: str = ""
    again: float = inf


class Roster:
    """What a source says, with patience. `known` is what it said before this process began. No thread but one."""

    def __init__(self, known: Mapping[str, Node], hold: float = HOLD_SECONDS) -> None:
        self._known = dict(known)
        self._missing: dict[str, float] = {}  # since when
        self._hold = hold

    def look(self, view: View, skipped: frozenset[str], now: float) -> Presence:
        """The nodes as of now (monotonic seconds); `skipped` are names of nodes whose records are not believed."""
        named = view.nodes
        absent = [name for name in self._known if name not in named and name not in skipped]
        self._missing = {name: self._missing.get(name, now) for name in absent}
        wiped = not named or (len(absent) > _FEW and 2 * len(absent) > len(self._known))
        patience = _CONFIRM_SECONDS if wiped else self._hold
        going = [] if not named else [name for name in absent if now - self._missing[name] >= patience]
        if absent and len(going) < len(absent):
            claimed = {cidr for node in named.values() for cidr in node.cidrs}
            going += [name for name in absent if name not in going and not claimed.isdisjoint(self._known[name].cidrs)]
        for name in going:
            del self._known[name], self._missing[name]
        self._known.update(named)
        alarm = ""
        if wiped and self._missing:
            alarm = (
                f"the source no longer names {len(self._missing)} of {len(self._known)} nodes, which is not believed: "
                "they stay as they were"
            )
        left = [since + patience - now for since in self._missing.values()] if named else []
        return Presence(dict(self._known), alarm, max(min(left, default=inf), 0.0))
