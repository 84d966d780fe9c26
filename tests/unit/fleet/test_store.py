"""When a node must not write to the store."""

from __future__ import annotations

import pytest

from pgcat_cluster.fleet.store import StoreStatus


@pytest.mark.parametrize(
    ("size_bytes", "quota_bytes", "alarms", "why"),
    [
        (80, 100, (), ""),
        (81, 100, (), "the store holds 81 of 100 bytes"),
        (81, None, (), ""),
        (1, 100, ("CORRUPT", "NOSPACE"), "the store reports CORRUPT, NOSPACE"),
    ],
)
def test_why_only_reading_is_allowed(
    size_bytes: int, quota_bytes: int | None, alarms: tuple[str, ...], why: str
) -> None:
    status = StoreStatus(
        cluster_id=1,
        revision=1,
        version="3.5.28",
        size_bytes=size_bytes,
        quota_bytes=quota_bytes,
        alarms=alarms,
    )
    assert status.why_read_only() == why
