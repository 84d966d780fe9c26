"""The table of faults: each meaning with its SQLSTATE, severity and retryability."""

import pytest

from pgcat_cluster import errors
from pgcat_cluster.errors import Fault

# name: (SQLSTATE, severity, may another server be tried)
TABLE = {
    "ProtocolViolation": ("08P01", "FATAL", False),
    "ProtocolUnsupported": ("0A000", "FATAL", False),
    "StartupOptionInvalid": ("42601", "FATAL", False),
    "StartupParameterUnknown": ("42704", "FATAL", False),
    "StartupParameterInvalid": ("22023", "FATAL", False),
    "NotAdmitted": ("28000", "FATAL", False),
    "AuthenticationFailed": ("28P01", "FATAL", False),
    "UnknownDatabase": ("3D000", "FATAL", False),
    "TooManyClients": ("53300", "FATAL", False),
    "Unsupported": ("0A000", "ERROR", False),
    "InvalidParameter": ("22023", "ERROR", False),
    "OutOfRange": ("22003", "ERROR", False),
    "InvalidText": ("22P02", "ERROR", False),
    "NotParsed": ("42601", "ERROR", False),
    "UnknownParameter": ("42704", "ERROR", False),
    "TransactionAborted": ("25P02", "ERROR", False),
    "UnknownSavepoint": ("3B001", "ERROR", False),
    "UnknownStatement": ("26000", "ERROR", False),
    "DuplicateStatement": ("42P05", "ERROR", False),
    "TooLarge": ("54000", "FATAL", False),
    "TableRefused": ("42501", "ERROR", False),
    "Canceled": ("57014", "ERROR", False),
    "ConsistencyTimeout": ("57014", "ERROR", False),
    "CheckoutTimeout": ("53300", "ERROR", False),
    "NoServer": ("57P03", "ERROR", False),
    "ServerUnreachable": ("08001", "ERROR", True),
    "ServerLost": ("08006", "FATAL", False),
    "OutcomeUnknown": ("08007", "FATAL", False),
    "HoldFull": ("53300", "ERROR", False),
    "HoldExpired": ("57P03", "ERROR", False),
    "ShuttingDown": ("57P01", "FATAL", False),
    "IdleInTransaction": ("25P03", "FATAL", False),
    "TransactionTimeout": ("25P04", "FATAL", False),
    "IdleSession": ("57P05", "FATAL", False),
    "InternalFault": ("XX000", "FATAL", False),
    "CommandUnknown": ("42601", "ERROR", False),
    "NotPermitted": ("42501", "ERROR", False),
    "ConfigFault": ("F0000", "ERROR", False),
    "ReplicationRefused": ("0A000", "FATAL", False),
}


def test_every_fault_is_in_the_table():
    # Consoles define theirs beside the words of their originals.
    kinds = [kind for kind in Fault.__subclasses__() if kind.__module__ == errors.__name__]
    found = {kind.__name__: (kind.sqlstate, kind.severity, kind.retryable) for kind in kinds}
    assert found == TABLE


@pytest.mark.parametrize("name", TABLE)
def test_every_fault_has_a_short_text_of_its_own(name):
    fault = getattr(errors, name)()
    assert (fault.message, fault.detail, fault.hint) == (fault.text, None, None)
    assert 0 < len(fault.text) < 80
    assert fault.text[0].islower()
    assert not fault.text.endswith(".")


def test_a_fault_takes_its_texts_and_prints_them():
    fault = errors.NoServer(detail="r1: banned", hint="wait")
    assert (fault.message, fault.detail, fault.hint) == ("no server is available", "r1: banned", "wait")
    assert str(fault) == "no server is available (r1: banned)"
    assert str(errors.Canceled("canceling statement due to statement timeout")) == (
        "canceling statement due to statement timeout"
    )
