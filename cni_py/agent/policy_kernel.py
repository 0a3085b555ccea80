"""The kernel's policy table, kept as a program says: one change, or the whole of it; what fails is tried again.

Whoever calls holds the lock of `agent.policies`.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from math import inf

from cni_py.agent.conditions import Conditions
from cni_py.agent.revoke import Denied, Revoker
from cni_py.kernel.policy_table import Mended, PolicyTable
from cni_py.model.errors import CniPyError
from cni_py.model.nft import AddElements, Operation, rules_first
from cni_py.model.nft_objects import Element
from cni_py.model.policy import DIRECTIONS, Address, Flow
from cni_py.policy import table
from cni_py.policy.compile import set_of
from cni_py.policy.program import Edit, Program

_RETRY_SECONDS, _MOST_RETRY_SECONDS = 0.25, 30.0
_LOG = logging.getLogger("cni_py.agent")


class PolicyKernel:
    """The table and the revoker. `judge` and `ended` are the latter's; `conditions` hear what is wrong.

    `wake` is called when `retry` has come to be.

    `loaded`: the kernel has had the whole program. `retry`: when to load again, in monotonic seconds.
    """

    def __init__(
        self,
        program: Program,
        judge: Callable[[], Denied],
        ended: Callable[[int], None],
        wake: Callable[[], None],
        conditions: Conditions,
        *,
        guards_node: bool,
    ) -> None:
        self._program, self._wake, self._conditions = program, wake, conditions
        self._table = PolicyTable(table.layout(guards_node=guards_node))
        self._revoker = Revoker(judge, ended)
        self.loaded = False
        self.retry, self._patience = inf, _RETRY_SECONDS

    @property
    def ports(self) -> tuple[int, int]:
        """The addresses of the sockets by which nftables are changed."""
        return self._table.socket.port, self._revoker.port

    def start(self) -> None:
        """Connections are judged from now on."""
        self._revoker.start()

    def stop(self) -> None:
        """Nothing is done any more; the table stays."""
        self._revoker.stop()
        self._table.close()

    def is_settled(self) -> bool:
        """True if every connection is such as the policies allow."""
        return self._revoker.is_idle()

    def commit(self, edit: Edit, *, strict: bool = False) -> None:
        """The edit is in the kernel; if it refuses, the whole table is tried. `strict`: raises if that fails too."""
        self._revoker.look_at(edit.shrunk)
        try:
            before, rest = rules_first(edit.operations)
            self._table.commit(before)
            self._table.commit((*rest, *_dirty(edit.shrunk)))
        except CniPyError as error:
            _LOG.warning("the policy table is read anew, as a change was refused: %s", error.message)
            self.load(strict=strict)

    def load(self, *, strict: bool = False, closed_first: bool = False) -> Mended:
        """The whole table is as it should be; what failed is told and tried again."""
        mended = Mended()
        try:
            if closed_first and not self._table.is_there():
                local = self._program.contents().sets
                self._table.load({one: local[one] for one in table.LOCAL.values()}, {})
            mended = self._write()
            addresses = self._program.addresses()
            self._revoker.look_at(addresses)
            self._table.commit(_dirty(addresses))
        except CniPyError as error:
            self._later(f"{error.message}; {error.details}" if error.details else error.message)
            if strict:
                raise
        else:
            self.loaded = True
            self.retry, self._patience = inf, _RETRY_SECONDS
            self._conditions.set("table", "")
        self._conditions.replace("closed ", self._program.refused)
        return mended

    def _write(self) -> Mended:
        """The kernel has the whole table. Chains that it does not take are closed, for their pods alone."""
        contents = self._program.contents()
        try:
            return self._table.load(contents.sets, {one.chain: one.rules for one in contents.chains.values()})
        except CniPyError:
            refused = {}
            for name, one in contents.chains.items():
                sets = {set_of(need): contents.sets[set_of(need)] for need in one.needs}
                if problem := self._table.problem(sets, one.chain, one.rules):
                    refused[name] = problem
            if not refused:
                raise
        self._program.refuse(refused)
        contents = self._program.contents()
        return self._table.load(contents.sets, {one.chain: one.rules for one in contents.chains.values()})

    def _later(self, problem: str) -> None:
        self._conditions.set("table", problem)
        self.retry = time.monotonic() + self._patience
        self._patience = min(2 * self._patience, _MOST_RETRY_SECONDS)
        self._wake()

    def verify(self) -> Mended:
        """How the kernel's table differs from what it should be; nothing is changed. Raises CniPyError."""
        contents = self._program.contents()
        return self._table.differences(contents.sets, {one.chain: one.rules for one in contents.chains.values()})

    def hits(self) -> dict[str, int]:
        """How many connections each rule of a policy has let pass since its chain was written: see `compile.label`."""
        return self._table.hits()

    def denied_packets(self, flow: Flow) -> int:
        """How many packets of the flow the kernel dropped in the last five minutes."""
        sets = table.DENIED if flow.protocol in table.WITH_PORTS else table.DENIED_PORTLESS
        key = (
            flow.source,
            flow.destination,
            flow.protocol,
            *((flow.port,) if flow.protocol in table.WITH_PORTS else ()),
        )
        return sum(self._table.packets(sets[one, False][flow.source.version], key) for one in DIRECTIONS)


def _dirty(addresses: Iterable[Address]) -> tuple[Operation, ...]:
    by_version: Mapping[int, list[Element]] = {version: [] for version in table.VERSIONS}
    for one in addresses:
        by_version[one.version].append(Element((one,)))
    return tuple(AddElements(table.DIRTY[version], tuple(found)) for version, found in by_version.items() if found)
