"""The cost model of several processes: what must hold whatever the numbers are."""

import pytest

from kcv.benchmark.cost import Link, Work, all_reduce_seconds, buckets, fitted_link, step_seconds

LINK = Link(latency=1e-4, bandwidth=1e8)
WORK = Work(compute=0.3, gradient_bytes=100_000_000, statistics_bytes=100_000, images=32)


def test_buckets_are_those_of_distributed_data_parallel() -> None:
    assert buckets(1000) == [1000]
    assert buckets(2**20 + 7) == [2**20, 7]
    assert buckets(100_000_000) == [2**20, *[25 * 2**20] * 3, 100_000_000 - 76 * 2**20]
    assert sum(buckets(12_606_000)) == 12_606_000


def test_a_ring_moves_nearly_twice_the_bytes_whatever_its_length() -> None:
    assert all_reduce_seconds(1e8, 1, LINK) == 0
    assert all_reduce_seconds(1e8, 2, LINK) == pytest.approx(2 * 1e-4 + 1.0)
    assert all_reduce_seconds(1e8, 1024, LINK) == pytest.approx(2 * 1023 * 1e-4 + 2.0 * 1023 / 1024)


def test_trees_have_few_messages_in_a_row() -> None:
    trees = Link(1e-5, 1e9, tree=True)
    assert all_reduce_seconds(8, 1024, trees) == pytest.approx(20 * 1e-5, rel=1e-3)
    assert all_reduce_seconds(1e8, 4, trees) == all_reduce_seconds(1e8, 4, Link(1e-5, 1e9))


def test_one_process_waits_for_nobody() -> None:
    step = step_seconds(WORK, 1, LINK)
    assert (step.seconds, step.exposed, step.share) == (0.3, 0.0, 0.0)


def test_averaging_hides_behind_the_backward_pass_but_for_the_last_bucket() -> None:
    fast, slow = Link(1e-5, 1e10), Link(1e-5, 1e8)
    hidden = step_seconds(WORK, 4, fast)
    assert hidden.exposed == pytest.approx(all_reduce_seconds(buckets(100_000_000)[-1], 4, fast), rel=0.1)
    exposed = step_seconds(WORK, 4, slow)
    assert exposed.exposed == pytest.approx(exposed.all_reduce - 0.2, rel=1e-3)
    busy = step_seconds(WORK, 4, Link(1e-5, 1e8, apart=False))
    assert busy.exposed == pytest.approx(busy.all_reduce, rel=1e-3)


def test_a_slow_input_is_what_a_step_takes() -> None:
    assert step_seconds(WORK, 1, LINK, input_rate=64).seconds == 0.5
    assert step_seconds(WORK, 1, LINK, input_rate=1000).seconds == 0.3


def test_a_link_is_found_again_from_its_times() -> None:
    sizes = (2**16, 2**20, 2**24)
    times = [all_reduce_seconds(size, 4, LINK) for size in sizes]
    found = fitted_link(sizes, times, 4, apart=True)
    assert (found.latency, found.bandwidth) == (pytest.approx(1e-4), pytest.approx(1e8))
