"""The published page of keys and the schemas beside it: complete, current, and true."""

import json
import re
from pathlib import Path

import pytest

from pgcat_cluster.agreement.bundles import judge
from pgcat_cluster.agreement.documents import OVERRIDES, WRITTEN, decode, decode_override, encode
from pgcat_cluster.agreement.keys import Keys, Kind
from pgcat_cluster.agreement.schemas import KINDS, name_of, schemas
from pgcat_cluster.cli.config import as_text
from tests.support.edits import DOCUMENTS
from tests.unit.topology.test_schema import misfits

PROTO = Path(__file__).parents[3] / "proto"
PAGE = (PROTO / "keyspace.md").read_text(encoding="utf-8")
EXAMPLES = [tuple(block.split("\n", 1)) for block in re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)]
KEYS = Keys("eu")
# Their documents come with later versions.
LATER = {Kind.PRIMARY, Kind.BARRIER, Kind.BUDGET, Kind.HELD, Kind.VERDICT_PRIMARY, Kind.SHARE}
WITHOUT_EXAMPLE = {Kind.OVERRIDE_PRIMARY, Kind.STATUS_COMMAND}


@pytest.mark.parametrize("name", KINDS)
def test_the_published_schema_is_current(name: str) -> None:
    published = (PROTO / "schemas" / f"{name}.json").read_text(encoding="utf-8")
    assert published == as_text(schemas()[name]), "run: pgcat-cluster config schema --write proto/schemas"


def test_no_schema_is_left_over() -> None:
    assert sorted(path.stem for path in (PROTO / "schemas").iterdir()) == sorted(KINDS)


def test_every_kind_of_key_has_its_part_of_the_page() -> None:
    headings = re.findall(r"^### `(.*)`$", PAGE, re.MULTILINE)
    named = [KEYS.named(KEYS.root + re.sub(r"<(\w+)>", r"\1", heading)) for heading in headings]
    kinds = [one.kind for one in named if one is not None]
    assert len(kinds) == len(headings)
    assert sorted(kinds, key=list(Kind).index) == [kind for kind in Kind if kind not in LATER]


def test_every_kind_of_key_has_an_example() -> None:
    named = [KEYS.named(KEYS.root + key) for key, _ in EXAMPLES]
    assert {one.kind for one in named if one is not None} == {*Kind} - LATER - WITHOUT_EXAMPLE


@pytest.mark.parametrize(("key", "text"), EXAMPLES, ids=[key for key, _ in EXAMPLES])
def test_an_example_is_read_and_fits_its_schema(key: str, text: str) -> None:
    named = KEYS.named(KEYS.root + key)
    assert named is not None
    kind, value = named.kind, text.strip().encode()
    if kind in WRITTEN:
        # Nothing of it is passed over, and nothing is said that nodes would leave out.
        assert json.loads(encode(decode(key, value, WRITTEN[kind]))) == json.loads(value)
        assert list(misfits(schemas()[name_of(kind)], json.loads(value))) == []
    elif kind in OVERRIDES:
        decode_override(key, kind, value)
    else:
        name = "pools/app" if kind is Kind.DOC else key.removeprefix("config/")
        assert judge(DOCUMENTS | {name: value}).wrong == ()
