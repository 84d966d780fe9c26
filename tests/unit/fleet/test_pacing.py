"""The bucket for writes and the pauses between attempts."""

from __future__ import annotations

import random

from pgcat_cluster.fleet.pacing import Backoff, Bucket


def test_a_full_bucket_then_so_many_a_second() -> None:
    bucket = Bucket(per_second=5.0, burst=20)
    assert [bucket.take(100.0) for _ in range(21)] == [True] * 20 + [False]
    assert bucket.wait_s(100.0) == 0.2
    assert not bucket.take(100.1)
    assert bucket.take(100.2)
    assert sum(bucket.take(100.2 + tenth / 10) for tenth in range(1, 101)) == 50


def test_a_rest_fills_it_to_the_brim_and_no_further() -> None:
    bucket = Bucket(per_second=5.0, burst=3)
    assert bucket.wait_s(0.0) == 0.0
    bucket.take(0.0)
    assert sum(bucket.take(1000.0) for _ in range(10)) == 3


def test_pauses_grow_to_their_limit_and_differ() -> None:
    backoff = Backoff(random.Random(1))
    rounds = []
    for _round in range(300):
        rounds.append([backoff.next_s() for _ in range(12)])
        backoff.reset()
    longest = [max(column) for column in zip(*rounds, strict=True)]
    limits = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2] + [5.0] * 6
    assert all(limit * 0.9 < pause <= limit for pause, limit in zip(longest, limits, strict=True))
    assert all(
        min(column) < limit * 0.1 for column, limit in zip(zip(*rounds, strict=True), limits, strict=True)
    )
