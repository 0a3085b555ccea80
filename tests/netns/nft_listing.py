"""`nft list ruleset` as text that can be compared: the elements of a hash come in an order that the kernel draws."""

import re
import subprocess

_ELEMENTS = re.compile(r"elements = \{([^}]*)\}")


def sort_elements(listing: str) -> str:
    """The listing with the elements of each set on one line, in order."""

    def in_order(match: re.Match[str]) -> str:
        return f"elements = {{ {', '.join(sorted(one.strip() for one in match[1].split(',')))} }}"

    return _ELEMENTS.sub(in_order, listing)


def listed(table: str = "") -> str:
    """What is in this network namespace, or in one table of it, without counters."""
    command = ["nft", "-s", "list", *(("table", *table.split()) if table else ("ruleset",))]
    return sort_elements(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def listed_elsewhere(text: str) -> str:
    """The listing of a fresh network namespace in which `nft -f` read this text."""
    command = ["unshare", "--net", "sh", "-c", "nft -f - && nft -s list ruleset"]
    done = subprocess.run(command, input=text, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + text
    return sort_elements(done.stdout)
