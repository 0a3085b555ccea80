"""The process that bench/watch measures: one KubeSource, and answers about itself on stdout to questions on stdin."""

import json
import sys
import time
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from cni_py.cluster.kube import KubeSource  # noqa: E402  # found through the line above
from cni_py.cluster.kube_access import KubeAccess  # noqa: E402  # as above
from cni_py.model.peers import View  # noqa: E402  # as above


class Watched:
    """See model.peers.Sink."""

    def __init__(self) -> None:
        self.times: SimpleQueue[float] = SimpleQueue()
        self.count = 0

    def changed(self, _: View) -> None:
        """See Sink."""
        self.count += 1
        self.times.put(time.monotonic())

    def trouble(self, reason: str) -> None:
        """See Sink."""
        if reason:
            sys.stderr.write(f"{reason}\n")


def main(url: str, directory: str, node: str) -> None:
    """Watch, and answer."""
    access = KubeAccess(url, node, "bench", ca=Path(directory, "ca.crt"), token=Path(directory, "token"))
    watched, source = Watched(), KubeSource(access)
    before, cpu, begin = rss(), time.process_time(), time.monotonic()
    source.start(watched)
    for question in sys.stdin:
        match question.strip():
            case "first":
                seconds = watched.times.get() - begin
                spent = time.process_time() - cpu
                answer = {"seconds": seconds, "cpu": spent, "before": before, "after": rss()}
            case "change":
                answer = {"at": watched.times.get()}
            case _:
                answer = {"cpu": time.process_time(), "rss": rss(), "told": watched.count}
        print(json.dumps(answer), flush=True)
    source.stop()


def rss() -> float:
    """MiB."""
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
