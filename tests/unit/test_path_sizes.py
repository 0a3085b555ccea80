"""How the largest packet that arrives is found."""

from hypothesis import given
from hypothesis import strategies as st

from cni_py.overlay.path_sizes import PathSizes

LEAST = 48


def settle(sizes: PathSizes, path: int) -> int:
    """Probes go out as the prober sends them, until the search is over; how many."""
    sent = 0
    for _ in range(2):
        for size in sizes.check():
            sent += 1
            sizes.arrived(size) if size <= path else sizes.missed(size)
    while (step := sizes.step()) is not None:
        sent += 1
        assert sent < 60
        sizes.arrived(step) if step <= path else sizes.missed(step)
    return sent


@given(st.integers(LEAST, 9000), st.integers(1280, 9000))
def test_the_search_ends_at_the_very_size(path: int, wanted: int) -> None:
    """After some thirty probes at most; a path that takes all needs no search."""
    sizes = PathSizes(wanted, LEAST)
    sent = settle(sizes, path)
    assert sizes.path == min(path, wanted)
    assert sizes.lost == (None if path >= wanted else path + 1)
    assert sent <= (2 if path >= wanted else 32)


def test_one_that_is_lost_is_no_reason_to_search() -> None:
    """Chance is not an MTU."""
    sizes = PathSizes(1450, LEAST)
    sizes.missed(1450)
    assert (sizes.searching, sizes.suspicious) == (False, True)
    sizes.arrived(1450)
    assert (sizes.path, sizes.suspicious) == (1450, False)


def test_as_long_as_it_searches_nothing_is_known() -> None:
    """But that the largest is lost."""
    sizes = PathSizes(1450, LEAST)
    sizes.missed(1450)
    sizes.missed(1450)
    assert (sizes.path, sizes.lost, sizes.searching, sizes.check()) == (None, 1450, True, ())


def test_a_path_that_changes_is_found_again() -> None:
    """It takes less, then all; answers that come late or were never asked for change nothing."""
    sizes = PathSizes(1450, LEAST)
    settle(sizes, 1400)
    assert sizes.check() == (1450, 1400)
    sizes.arrived(700)
    sizes.missed(1450)
    assert sizes.path == 1400
    settle(sizes, 1300)
    assert sizes.path == 1300
    settle(sizes, 1450)
    assert (sizes.path, sizes.lost, sizes.check()) == (1450, None, (1450,))
