"""Passes over runs of bytes that need no thought, for `shapes`; `runs.py` is the interpreted body and says more."""

from libc.string cimport memcmp

cdef bytes _PART = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_$" + bytes(range(128, 256))
cdef bytes _FOLD_TABLE = bytes([byte if byte in _PART else 0 for byte in range(256)]).lower()
cdef const unsigned char *_FOLD = _FOLD_TABLE


cdef bytes plain_shape(bytearray text, Py_ssize_t start, Py_ssize_t end):
    # A scan costs less than any other look at the statement.
    return None


cdef Py_ssize_t copy_plain(
    const unsigned char *text, Py_ssize_t start, Py_ssize_t end, unsigned char *out, Py_ssize_t size
) noexcept:
    # One word: what stands behind it is cheap to look at here, unlike in the interpreted body.
    cdef const unsigned char *fold = _FOLD  # a local one, or each byte written might change it as far as C knows
    cdef unsigned char folded
    out += size - start
    while start < end:
        folded = fold[text[start]]
        if folded == 0:
            break
        out[start] = folded
        start += 1
    return start


cdef Py_ssize_t end_of_digits(const unsigned char *text, Py_ssize_t start, Py_ssize_t end) noexcept:
    while start < end:
        if 0x30 <= text[start] <= 0x39:
            start += 1
        elif text[start] == 0x5F and start + 1 < end and 0x30 <= text[start + 1] <= 0x39:
            start += 2
        else:
            break
    return start


cdef Py_ssize_t end_of_inside(const unsigned char *text, Py_ssize_t start, Py_ssize_t end) noexcept:
    while start < end and text[start] != 0x27 and text[start] != 0x5C and text[start] != 0:
        start += 1
    return start


cdef bint is_same(const unsigned char *memory, Py_ssize_t first, Py_ssize_t second, Py_ssize_t length) noexcept:
    return memcmp(memory + first, memory + second, length) == 0


cdef bytes to_bytes(const unsigned char *memory, Py_ssize_t size):
    return memory[:size]
