"""What is said of a version of etcd."""

from __future__ import annotations

import pytest

from pgcat_cluster.fleet import versions

# Every first good version, and the last bad one of each minor.
NAMES = {
    "back in time": (["3.4.25", "3.5.8", "3.6.0"], ["3.3.99", "3.4.24", "3.5.7"]),
    "former leader": (["3.4.31", "3.5.13", "3.6.0"], ["3.4.30", "3.5.12"]),
    "deletions may be missing": (["3.4.36", "3.5.18", "3.6.0"], ["3.4.35", "3.5.17"]),
    "a refresh may answer": (["3.4.38", "3.5.23", "3.6.5", "3.7.0"], ["3.4.37", "3.5.22", "3.6.4"]),
    "reads may be stale": (["3.4.42", "3.5.28", "3.6.9", "3.7.0"], ["3.4.41", "3.5.27", "3.6.8"]),
}


@pytest.mark.parametrize("name", NAMES)
def test_each_defect_ends_with_its_first_good_version(name: str) -> None:
    good, bad = NAMES[name]

    def is_warned_of(version: str) -> bool:
        return any(name in warning for warning in versions.warnings(version))

    assert [version for version in good if is_warned_of(version)] == []
    assert [version for version in bad if not is_warned_of(version)] == []


def test_a_good_version_is_not_warned_of() -> None:
    assert versions.warnings("3.5.28") == ()
    assert versions.warnings("3.7.0") == ("etcd 3.7.0 was never tried; 3.4 and 3.5 were",)


def test_three_versions_are_refused() -> None:
    refused = [patch for patch in range(30) if versions.is_refused((3, 5, patch))]
    assert refused == [0, 1, 2]
    assert not versions.is_refused(versions.parse("3.4.23"))


def test_leases_are_safe_where_both_faults_are_mended() -> None:
    safe = ["3.4.38", "3.5.23", "3.6.5"]
    assert [text for text in safe if not versions.has_safe_leases(versions.parse(text))] == []
    unsafe = ["3.4.37", "3.5.13", "3.6.0"]
    assert [text for text in unsafe if versions.has_safe_leases(versions.parse(text))] == []


def test_progress_is_true_since() -> None:
    told = {
        text: versions.tells_true_progress(versions.parse(text))
        for text in ("3.4.24", "3.4.25", "3.5.7", "3.5.8", "3.6.0", "3.6.0-rc.1", "nonsense")
    }
    assert [text for text, true in told.items() if true] == ["3.4.25", "3.5.8", "3.6.0", "3.6.0-rc.1"]
