"""Tests of shapes: each rule of PostgreSQL's scanner with the whole shape it must give."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies

from pgcat_cluster.relay.shapes import Scanner, render, render_with_places


def shape_of(text: str | bytes, scanner: Scanner | None = None) -> str | None:
    """The shape with ‹i› for the marker of an integer, and so on."""
    statement = text.encode() if isinstance(text, str) else text
    # Not at the start of the buffer, and with something behind it that must not be looked at.
    buffer = bytearray(b"'(" + statement + b"0'")
    scanner = scanner or Scanner()
    shape = scanner.scan(buffer, 2, 2 + len(statement))
    constants = scanner.constants
    assert scanner.glance(buffer, 2, 2 + len(statement)) == shape
    assert shape is None or scanner.constants == constants
    if shape is None:
        return None
    pieces = shape.decode("utf-8", "surrogateescape").split("\0")
    return pieces[0] + "".join(f"‹{piece[0]}›{piece[1:]}" for piece in pieces[1:])


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("", ""),
        (" ;; ; ", ""),
        ("  SELECT\n\t 1 ;; ", "select ‹i›"),
        ("select 1; select 2", "select ‹i›; select ‹i›"),
        ("Select É, a$1, _B2 from T", "select É, a$1, _b2 from t"),
        ('select "A b""C", "x\'y" FROM "T"', 'select "A b""C", "x\'y" from "T"'),
        ('select U&"d\\0061t" from t', 'select u&"d\\0061t" from t'),
        # Numbers.
        ("select -1, +2 - -3", "select -‹i›, +‹i› - -‹i›"),
        ("select a-1+b", "select a-‹i›+b"),
        ("select 2147483647, 2147483648, 0000000000001", "select ‹i›, ‹d›, ‹i›"),
        ("select 1_000, 2_147_483_648", "select ‹i›, ‹d›"),
        ("select 0x1F, 0o17, 0B1_0, 0x_f, 0x80000000", "select ‹i›, ‹i›, ‹i›, ‹i›, ‹d›"),
        ("select 1., .5, 1.5, 1e5, 1.5E-3, .5e+1", "select ‹d›, ‹d›, ‹d›, ‹d›, ‹d›, ‹d›"),
        ("1..5", "‹i›..‹i›"),
        ("select t.a, t.*", "select t.a, t.*"),
        ("select $1, $23::int", "select $1, $23::int"),
        # Strings.
        ("select 'it''s', 'a\\', ''", "select ‹s›, ‹s›, ‹s›"),
        ("select E'a\\'b', e'\\\\', E'a''b'", "select ‹e›, ‹e›, ‹e›"),
        ("select B'01', b'1', X'aF', N'n', U&'\\0061'", "select ‹b›, ‹b›, ‹x›, ‹n›, ‹u›"),
        ("select be'x', u & 'x', e 'x'", "select be‹s›, u & ‹s›, e ‹s›"),
        ("select 'a'\n'b'", "select ‹s›"),
        ("select 'a' -- c\n\t-- d\r 'b' 'c'", "select ‹s› ‹s›"),
        ("select 'a' /* \n */ 'b'", "select ‹s› ‹s›"),
        ("select 'a' 'b'", "select ‹s› ‹s›"),
        ("select E'a\\''\n'\\'b'", "select ‹e›"),
        ("do $$ it's $1 $a$ $$", "do ‹q›"),
        ("do $a$ $b$ $$ $a $a$, $É1$x$É1$", "do ‹q›, ‹q›"),
        ("select 'a'::text, date '2020-01-01'", "select ‹s›::text, date ‹s›"),
        # Comments and operators.
        ("select/**/1--x", "select ‹i›"),
        ("/* a /* b */ c */ select 1 -- x\n+ 2", "select ‹i› + ‹i›"),
        ("select a*/*c*/b, 1+--c\n2, a<-1, a @> b", "select a* b, ‹i›+ ‹i›, a<-‹i›, a @> b"),
        ("select 4 / 2 //*c*/ 1", "select ‹i› / ‹i› / ‹i›"),
        # Lists.
        ("a in (1)", "a in (‹i›‹m›)"),
        ("a in (1,2, 3 ,4)", "a in (‹i›‹m›)"),
        ("a IN('x', 'y')", "a in(‹s›‹m›)"),
        ("a in ( -1, -2 )", "a in ( -‹i›‹m›)"),
        ("a in (1, 'x')", "a in (‹i›, ‹s›)"),
        ("a in (1, -1)", "a in (‹i›, -‹i›)"),
        ("a in (1, 2, b)", "a in (‹i›, ‹i›, b)"),
        ("a in (1, 2,)", "a in (‹i›, ‹i›,)"),
        ("a in ()", "a in ()"),
        ("a in ($1, $2)", "a in ($1, $2)"),
        ("a in (b, b)", "a in (b, b)"),
        ("a in (select 1)", "a in (select ‹i›)"),
        ("a in (select 1, 1)", "a in (select ‹i›, ‹i›)"),
        ("any(array[1, 2])", "any(array[‹i›‹m›])"),
        ("a[1]", "a[‹i›]"),
        ("f(1, 2), margin (1, 2)", "f(‹i›, ‹i›), margin (‹i›, ‹i›)"),
        ("(a, b) in ((1,'x'),(2,'y'))", "(a, b) in ((‹i›,‹s›)‹m›)"),
        ("a in ((1), (2))", "a in ((‹i›)‹m›)"),
        ("values (1, 'x'),(2, 'y'),\n (3, 'z')", "values (‹i›, ‹s›)‹m›"),
        ("values (1), (now()), (now()), (2)", "values (‹i›)‹m›, (now())‹m›, (‹i›)‹m›"),
        ("values ((1)), ((2))", "values ((‹i›))‹m›"),
        (
            "insert into t (a) values ($1, f(1)), ($2, f(2)) on conflict (a) do nothing",
            "insert into t (a) values ($1, f(‹i›))‹m›, ($2, f(‹i›))‹m› on conflict (a) do nothing",
        ),
        ("(1),(1)", "(‹i›),(‹i›)"),
        (
            "a.values (1), (2), a . in(1,2), a.array[1,2]",
            "a.values (‹i›), (‹i›), a . in(‹i›,‹i›), a.array[‹i›,‹i›]",
        ),
        (")) in (1, 2)", ")) in (‹i›‹m›)"),
        ("(" * 40 + "a in (1, 2)" + ")" * 40, "(" * 40 + "a in (‹i›, ‹i›)" + ")" * 40),
    ],
)
def test_shape(text: str, shape: str) -> None:
    assert shape_of(text) == shape


@pytest.mark.parametrize(
    "text",
    [
        "select 'a",
        "select 'a''",
        "select E'a\\'",
        "select E'a\\",
        "select 'a'\n'b",
        'select "a',
        "select $$a$",
        "select $a$ $$ $A$",
        "select $a b",
        "select $",
        "/* a /* b */",
        "/*/",
        "select 1a",
        "select 1_",
        "select 1__0",
        "select 0x",
        "select 0x_",
        "select 0x1g",
        "select 0b12",
        "select 0o8",
        "select 0x1.5",
        "select 1e",
        "select 1e+",
        "select 1.5.5",
        "select 1é",
        "select t.5",
        "select $1a",
        "select B'0''1'",
        "select U&'!0061' UESCAPE '!'",
        "select U&\"!0061\" uescape '!'",
        "select 1\0",
        "select '\0'",
        "select E'\\\0'",
        'select "\0"',
        "select $$\0$$",
        "select 1 -- \0",
        "select 1 /* \0 */",
    ],
)
def test_unknown(text: str) -> None:
    assert shape_of(text) is None


def test_bytes_that_are_no_utf_8_are_letters() -> None:
    assert shape_of(b"select \xff\xe9A1 from T") == "select \udcff\udce9a1 from t"
    scanner = Scanner()
    assert render(scanner.scan(bytearray(b"select \xff"), 0, 8) or b"") == "select \udcff"


def test_every_kind_is_rendered_as_a_constant_of_its_kind() -> None:
    text = bytearray(b"select 7, 7.0, 'a', E'a', B'1', X'1', N'a', U&'a', $a$a$a$ where a in (7, 8)")
    shape = Scanner().scan(text, 0, len(text))
    assert shape is not None
    rendered = "select 1, 1.5, 'x', E'x', B'0', X'0', N'x', U&'x', $$x$$ where a in (1)"
    assert render(shape) == rendered
    again = bytearray(rendered.encode())
    assert Scanner().scan(again, 0, len(again)) == shape


def test_constants_and_comments_are_recorded_with_their_places() -> None:
    text = bytearray(b"select 1 /* a */, 'x'\n'y' -- b\n where a in (.5, 2.5)")
    scanner = Scanner()
    assert scanner.scan(text, 0, len(text)) == b"select \0i , \0s where a in (\0d\0m)"
    constants = [
        (bytes(text[scanner.starts[n] : scanner.ends[n]]), chr(scanner.kinds[n]))
        for n in range(scanner.constants)
    ]
    assert constants == [(b"1", "i"), (b"'x'\n'y'", "s"), (b".5", "d"), (b"2.5", "d")]
    comments = [
        bytes(text[scanner.comment_starts[n] : scanner.comment_ends[n]]) for n in range(scanner.comments)
    ]
    assert comments == [b"/* a */", b"-- b"]


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("select 1, 'x', -2", {"1": 0, "'x'": 1, "2": 2}),
        ("a = 1 and b in (2, 3, 4) and c = 5", {"1": 0, "2": 1, "3": 1, "4": 1, "5": 3}),
        ("a in (-1, -2, -3) and b = 5", {"1": 0, "2": 0, "3": 0, "5": 2}),
        ("a in ( -1, -2) and b = 5", {"1": 0, "2": 0, "5": 2}),
        ("a in (1, 'x', 2)", {"1": 0, "'x'": 1, "2": 2}),
        ("any(array[1, 2]) or a = 3", {"1": 0, "2": 0, "3": 2}),
        ("values (1, 'a'), (2, 'b'), (3, 'c') limit 4", {"1": 0, "'a'": 1, "2": 0, "'b'": 1, "3": 0, "'c'": 1, "4": 3}),
        ("values (1, f(2)), (3, 4), (5, 6), (7, f(8))",
         {"1": 0, "2": 1, "3": 3, "4": 4, "5": 3, "6": 4, "7": 6, "8": 7}),
        ("(a, b) in ((1, 2), (3, 4)) and c in (5, 6)", {"1": 0, "2": 1, "3": 0, "4": 1, "5": 3, "6": 3}),
        ("values (1, 2 in (3, 4)), (5, 6 in (7))", {"1": 0, "2": 1, "3": 2, "4": 2, "5": 0, "6": 1, "7": 2}),
        ("values ((1)), ((2)); select 3", {"1": 0, "2": 0, "3": 2}),
    ],
)  # fmt: skip
def test_each_constant_knows_its_marker(text: str, places: dict[str, int]) -> None:
    """The number of the marker in the shape, lists and rows count as one more."""
    scanner = Scanner()
    buffer = bytearray(b"(" + text.encode())
    shape = scanner.scan(buffer, 1, len(buffer))
    assert shape is not None
    found = {
        bytes(buffer[scanner.starts[n] : scanner.ends[n]]).decode(): shape[: scanner.places[n]].count(0)
        for n in range(scanner.constants)
    }
    assert found == places
    assert all(shape[scanner.places[n]] == 0 for n in range(scanner.constants))
    assert all(shape[scanner.places[n] + 1] == scanner.kinds[n] for n in range(scanner.constants))


@pytest.mark.parametrize(
    ("shape", "rendered", "places"),
    [
        (b"", "", {}),
        (b"select \0i, \0s", "select 1, 'x'", {7: 7, 10: 11}),
        ("é in (-\0d\0m) = \0q".encode(), "é in (-1.5) = $$x$$", {8: 8, 15: 16}),
        (b"\0i\0m\0e", "1E'x'", {0: 0, 1: 4}),
    ],
)
def test_places_of_rendered_constants(shape: bytes, rendered: str, places: dict[int, int]) -> None:
    assert render_with_places(shape) == (rendered, places)


def test_a_scanner_has_as_much_room_as_was_asked_for() -> None:
    text = bytearray(b"values " + b", ".join(b"(%d, 'x')" % number for number in range(1000)))
    scanner = Scanner(constants_max=1999)
    shape = scanner.scan(text, 0, len(text))
    assert shape == b"values (\0i, \0s)\0m"
    assert scanner.constants == 2000
    assert scanner.constants_max == len(scanner.places) == 1999
    assert list(scanner.places) == [8, 12] * 999 + [8]


def test_constants_beyond_the_record_are_counted_and_still_cut() -> None:
    scanner = Scanner()
    count = len(scanner.starts) + 100
    text = bytearray(b"a in (" + b"1," * (count - 1) + b"'x')" + b" /**/" * 40)
    shape = scanner.scan(text, 0, len(text))
    assert shape is not None
    assert shape == b"a in (" + b"\0i," * (count - 1) + b"\0s)"
    assert scanner.constants == count
    assert scanner.comments == 40


def test_a_long_statement_is_cut_like_a_short_one() -> None:
    scanner = Scanner()
    assert shape_of("values " + "(1)," * 100_000 + "(2)", scanner) == "values (‹i›)‹m›"
    assert shape_of("1," * 100_000 + "1", scanner) == "‹i›," * 100_000 + "‹i›"
    assert shape_of("select '" + "x" * 1_000_000 + "'", scanner) == "select ‹s›"


def test_a_scanner_remembers_nothing_of_the_statement_before() -> None:
    scanner = Scanner()
    for text in ("values (1", "values (1),(2)", "in ((", "u&'a' uescape", "select 'a"):
        shape_of(text, scanner)
        assert shape_of("uescape (1),(1)", scanner) == "uescape (‹i›),(‹i›)"
        assert scanner.constants == 2
        assert scanner.comments == 0


# What decides whether a statement is plain, and what would be taken for it.
_PIECES = [
    *(
        "select",
        "From",
        "t",
        "é",
        "b",
        "E",
        "u",
        "_",
        "$1",
        "a$1",
        "x1",
        "0x1f",
        "1e5",
        "1_0",
        "in (1)",
        "uescape",
    ),
    *(
        "0",
        "7",
        "123456789",
        "1234567890",
        "00000000001",
        " ",
        "  ",
        "\t",
        "\n",
        ";",
        ".",
        ",",
        "-",
        "--",
        "/",
        "/*",
    ),
    *("=", "*", "<", ">", "+", ":", "|", "&", "'", "'a'", '"', "(", ")", "[", "\0"),
]


@given(strategies.lists(strategies.sampled_from(_PIECES), max_size=24).map("".join))
@settings(max_examples=500, deadline=None)
def test_a_glance_sees_what_a_scan_sees(text: str) -> None:
    shape_of(text)
    # Joined by blanks most of it is plain.
    shape_of(" ".join(text.replace("\0", "").split()))


def test_a_constant_is_not_cut_out_of_a_word() -> None:
    """As a possessive repetition of groups did before Python 3.11.5, where the last word of a run had no end."""
    for text in ("a = \x97 b + -96 WHERv c = 1\xc5;", "a + -9 b = 1c"):
        statement = text.encode("latin-1")
        buffer = bytearray(b"'" + statement + b"1'")
        places = (buffer, 1, 1 + len(statement))
        assert Scanner().glance(*places) == Scanner().scan(*places)
