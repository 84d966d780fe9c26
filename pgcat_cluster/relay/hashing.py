"""PostgreSQL's hash of a partition key, so that the database itself can check where a key belongs.

The rules are those of `PARTITION BY HASH` over one column: Bob Jenkins' lookup3 with 64 bits of result and the seed
of partitions (hash_bytes_extended and hash_bytes_uint32_extended), combined as satisfies_hash_partition combines the
hashes of columns. Words of a key of bytes are taken least significant byte first, as servers on such machines do.

int2, int4 and int8 hash alike, and so do timestamps, by their microseconds since 2000. text and varchar hash by their
bytes in UTF-8, where the collation is deterministic, and a uuid by its 16 bytes.
"""

# Words have 32 bits and wrap: what the C types do of themselves, the masks do where this runs interpreted.
# The seed 0x7A5B22367996DCFD as two words.
_SEED_HIGH = 0x7A5B2236
_SEED_LOW = 0x7996DCFD
# What every hash starts from beside its length: 0x9E3779B9 + 3923095.
_START = 0x9E735650
# What one column's hash is added to in a row's hash.
_ROW = 0x49A0F4DD15E5A8E3
_MASK_64 = 0xFFFFFFFFFFFFFFFF


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    mask = 0xFFFFFFFF
    a = ((a - c) ^ (c << 4 | c >> 28)) & mask
    c = (c + b) & mask
    b = ((b - a) ^ (a << 6 | a >> 26)) & mask
    a = (a + c) & mask
    c = ((c - b) ^ (b << 8 | b >> 24)) & mask
    b = (b + a) & mask
    a = ((a - c) ^ (c << 16 | c >> 16)) & mask
    c = (c + b) & mask
    b = ((b - a) ^ (a << 19 | a >> 13)) & mask
    a = (a + c) & mask
    c = ((c - b) ^ (b << 4 | b >> 28)) & mask
    b = (b + a) & mask
    return a, b, c


def _final(a: int, b: int, c: int) -> int:
    mask = 0xFFFFFFFF
    c = ((c ^ b) - (b << 14 | b >> 18)) & mask
    a = ((a ^ c) - (c << 11 | c >> 21)) & mask
    b = ((b ^ a) - (a << 25 | a >> 7)) & mask
    c = ((c ^ b) - (b << 16 | b >> 16)) & mask
    a = ((a ^ c) - (c << 4 | c >> 28)) & mask
    b = ((b ^ a) - (a << 14 | a >> 18)) & mask
    c = ((c ^ b) - (b << 24 | b >> 8)) & mask
    high = b
    return high << 32 | c


def _seeded(length: int) -> tuple[int, int, int]:
    mask = 0xFFFFFFFF
    start = (_START + length) & mask
    return _mix((start + _SEED_HIGH) & mask, (start + _SEED_LOW) & mask, start)


# Every integer starts from here.
_INTEGER_A, _INTEGER_B, _INTEGER_C = _seeded(4)


def hash_of_int(key: int) -> int:
    """Return hashint8extended(key, seed) as an unsigned number; `key` fits 64 bits with its sign."""
    mask = 0xFFFFFFFF
    high = key >> 32
    if key < 0:
        high = ~high  # so that a key hashes alike whatever the width of its type
    word = (key ^ high) & mask
    return _final((_INTEGER_A + word) & mask, _INTEGER_B, _INTEGER_C)


def hash_of_bytes(key: bytes) -> int:
    """Return hash_bytes_extended(key, seed) as an unsigned number: that of a text or a uuid."""
    mask = 0xFFFFFFFF
    text = key
    left = len(key)
    a, b, c = _seeded(left & mask)
    i = 0
    while left >= 12:
        a = (a + _word(text, i, 4)) & mask
        b = (b + _word(text, i + 4, 4)) & mask
        c = (c + _word(text, i + 8, 4)) & mask
        a, b, c = _mix(a, b, c)
        i += 12
        left -= 12
    # The length has its say in c, whose lowest byte is not touched again.
    a = (a + _word(text, i, min(left, 4))) & mask
    if left > 4:
        b = (b + _word(text, i + 4, min(left - 4, 4))) & mask
    if left > 8:
        c = (c + (_word(text, i + 8, left - 8) << 8)) & mask
    return _final(a, b, c)


def _word(text: bytes, start: int, length: int) -> int:
    """Up to four bytes as a number, the least significant one first."""
    word = 0
    while length > 0:
        length -= 1
        word = word << 8 | text[start + length]
    return word


def hash_of_row(column_hash: int) -> int:
    """Return what satisfies_hash_partition divides, where a row's key is one column of this hash."""
    return (column_hash + _ROW) & _MASK_64
