"""Connections that were let through and that the policies of today do not allow are ended, beside the packets' way.

In the transaction that made a policy of a pod allow less the pod's addresses became `dirty`: from then on each packet
that its connections send is judged anew. What is left is to end those that are denied for both sides, and then to let
the others go back to the quick way. An ended connection's packets would look like a new one's, perhaps begun by the
other side, so its addresses and ports are kept in `cut` for as long as TCP may repeat them.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping

from cni_py.kernel import connections, nft
from cni_py.kernel.connections import Connection
from cni_py.model.errors import CniPyError
from cni_py.model.nft import AddElements, Change, DiscardElements
from cni_py.model.nft_objects import Element
from cni_py.model.policy import Address, Flow
from cni_py.policy.table import CUT, CUT_SECONDS, DIRTY, VERSIONS, WITH_PORTS

_LOG = logging.getLogger("cni_py.agent")
_RETRY_S = 1.0

# True for a flow that the policies deny.
Denied = Callable[[Flow], bool]


class Revoker:
    """A thread. `judge` gives it the judgement of this moment; `ended` is told how many connections were."""

    def __init__(self, judge: Callable[[], Denied], ended: Callable[[int], None]) -> None:
        self._judge_now = judge
        self._ended = ended
        self._socket = nft.connect()
        self._guard = threading.Condition()
        self._dirty: dict[Address, int] = {}  # when they became so, counted in calls
        self._calls = 0
        self._widened = False
        self._stopped = False
        self._cut: dict[tuple[Flow, int], float] = {}  # connections by their source port: until when
        self._thread = threading.Thread(target=self._run, name="revoker", daemon=True)

    @property
    def port(self) -> int:
        """The address of its nfnetlink socket."""
        return self._socket.port

    def start(self) -> None:
        """From now on it works."""
        self._thread.start()

    def stop(self) -> None:
        """The thread has ended; what was dirty stays so, and the next agent looks at it."""
        with self._guard:
            self._stopped = True
            self._guard.notify()
        self._thread.join()
        self._socket.close()

    def look_at(self, addresses: Iterable[Address]) -> None:
        """These become dirty, in a transaction before which `judge` gives no answer: their connections are judged.

        Connections that were ended are looked at as well, as they may be allowed now.
        """
        with self._guard:
            self._calls += 1
            self._dirty.update(dict.fromkeys(addresses, self._calls))
            self._widened = bool(self._cut)
            if self._dirty or self._widened:
                self._guard.notify()

    def is_idle(self) -> bool:
        """True if there is nothing to judge."""
        with self._guard:
            return not self._dirty and not self._widened

    def _run(self) -> None:
        while True:
            with self._guard:
                self._guard.wait_for(lambda: self._stopped or self._dirty or self._widened)
                if self._stopped:
                    return
                dirty, self._widened = dict(self._dirty), False
            try:
                is_denied = self._judge_now()
                self._allow_again(is_denied)
                if dirty:
                    self._judge(dirty, is_denied)
            except CniPyError as error:
                _LOG.warning("connections that policies deny are not ended yet: %s", error.message)
                with self._guard:
                    self._widened = bool(self._cut)
                    self._guard.wait_for(lambda: self._stopped, _RETRY_S)

    def _judge(self, dirty: Mapping[Address, int], is_denied: Denied) -> None:
        ended = 0
        for version in {one.version for one in dirty}:
            denied = [
                one
                for one in connections.tracked(self._socket, version)
                if (one.flow.source in dirty or one.flow.destination in dirty) and is_denied(one.flow)
            ]
            for one in denied:
                self._end(one)
            ended += len(denied)
        self._clean(dirty)
        if ended:
            self._ended(ended)

    def _end(self, connection: Connection) -> None:
        """First `cut`, then forgotten: never is there a moment in which its packets could begin a new one."""
        if connection.flow.protocol in WITH_PORTS:
            elements = _both_ways(connection.flow, connection.source_port)
            cut = CUT[connection.flow.source.version]
            # added anew, so that its time begins now
            nft.commit(self._socket, Change((), (DiscardElements(cut, elements), AddElements(cut, elements))))
            self._cut[connection.flow, connection.source_port] = time.monotonic() + CUT_SECONDS
        connections.forget(self._socket, connection)

    def _allow_again(self, is_denied: Denied) -> None:
        """Of what was ended, those that are allowed now may begin anew."""
        now = time.monotonic()
        for (flow, source_port), until in list(self._cut.items()):
            if now < until and is_denied(flow):
                continue
            elements = _both_ways(flow, source_port)
            nft.commit(self._socket, Change((), (DiscardElements(CUT[flow.source.version], elements),)))
            del self._cut[flow, source_port]

    def _clean(self, dirty: Mapping[Address, int]) -> None:
        """What was judged goes back to the quick way, unless it became dirty again meanwhile: that is judged again."""
        with self._guard:
            clean = [one for one, call in dirty.items() if self._dirty.get(one) == call]
            by_version = {version: [Element((one,)) for one in clean if one.version == version] for version in VERSIONS}
            operations = (DiscardElements(DIRTY[one], tuple(found)) for one, found in by_version.items() if found)
            nft.commit(self._socket, Change((), tuple(operations)))
            for one in clean:
                del self._dirty[one]


def _both_ways(flow: Flow, source_port: int) -> tuple[Element, ...]:
    there = (flow.source, flow.destination, flow.protocol, source_port, flow.port)
    back = (flow.destination, flow.source, flow.protocol, flow.port, source_port)
    return tuple(Element(one) for one in dict.fromkeys((there, back)))
