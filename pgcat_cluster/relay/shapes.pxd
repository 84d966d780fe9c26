cimport cython
from pgcat_cluster.relay cimport runs

cdef int _BLANK, _DASH, _SLASH, _WORD, _PREFIX, _DIGIT, _QUOTE, _NAME, _DOLLAR, _DOT, _OPEN, _CLOSE, _NUL, _OTHER
cdef int _PLAIN, _LIST, _ROW, _NEXT_ROW
cdef Py_ssize_t _CONSTANTS_MAX, _COMMENTS_MAX, _DEPTH_MAX, _STATEMENT_BYTES_KEPT
cdef bytes _CLASS_TABLE, _FOLD_TABLE, _DIGIT_TABLE
cdef const unsigned char *_CLASS
cdef const unsigned char *_FOLD
cdef const unsigned char *_DIGIT_VALUE


@cython.final
cdef class Scanner:
    cdef bytearray _kept
    cdef long long[::1] _openings, _opened, _row_starts, _row_ends
    cdef readonly Py_ssize_t constants, constants_max, comments
    cdef readonly bint is_placed
    cdef readonly long long[::1] starts, ends, kinds, places, comment_starts, comment_ends

    @cython.locals(shape=bytes)
    cpdef bytes glance(self, bytearray buffer, Py_ssize_t start, Py_ssize_t end)
    @cython.locals(
        memory=bytearray, text="const unsigned char *", out="unsigned char *", size=Py_ssize_t, depth=Py_ssize_t, blank=bint,
        unicode=bint, i=Py_ssize_t, stop=Py_ssize_t, byte=int, kind=int, marker=int, outer=int, shape=bytes,
    )
    cpdef bytes scan(self, bytearray buffer, Py_ssize_t start, Py_ssize_t end)
    @cython.locals(n=Py_ssize_t, start=Py_ssize_t, end=Py_ssize_t)
    cpdef bint mentions(self, bytearray buffer) except? -1
    cpdef forget(self)
    cdef int _note_comment(self, Py_ssize_t start, Py_ssize_t end) noexcept
    @cython.locals(opened=Py_ssize_t, n=Py_ssize_t, folded=Py_ssize_t, row_start=Py_ssize_t, row_end=Py_ssize_t)
    cdef Py_ssize_t _close(self, unsigned char *out, Py_ssize_t size, int byte, Py_ssize_t depth) noexcept

@cython.locals(before=int)
cdef int _opening(const unsigned char *out, Py_ssize_t size, int byte, int outer) noexcept
@cython.locals(before=Py_ssize_t, k=Py_ssize_t)
cdef bint _ends_with(const unsigned char *out, Py_ssize_t size, const unsigned char *word, Py_ssize_t length) noexcept
@cython.locals(length=Py_ssize_t, kind=int, item=Py_ssize_t, comma=Py_ssize_t, stop=Py_ssize_t, is_negative=bint)
cdef Py_ssize_t _fold_list(unsigned char *out, Py_ssize_t start, Py_ssize_t size) noexcept
@cython.locals(depth=Py_ssize_t)
cdef Py_ssize_t _end_of_comment(const unsigned char *text, Py_ssize_t i, Py_ssize_t end) noexcept
@cython.locals(byte=int, following=Py_ssize_t)
cdef Py_ssize_t _end_of_string(const unsigned char *text, Py_ssize_t i, Py_ssize_t end, int marker) noexcept
@cython.locals(byte=int, newline=bint)
cdef Py_ssize_t _continuation(const unsigned char *text, Py_ssize_t i, Py_ssize_t end) noexcept
@cython.locals(byte=int)
cdef Py_ssize_t _end_of_name(const unsigned char *text, Py_ssize_t i, Py_ssize_t end) noexcept
@cython.locals(tag_end=Py_ssize_t, tag=bytearray, close=Py_ssize_t)
cdef Py_ssize_t _end_of_dollars(bytearray buffer, Py_ssize_t i, Py_ssize_t end) except? -2
@cython.locals(start=Py_ssize_t, base=int, letter=int, integer=bint, value="long long", k=Py_ssize_t)
cdef Py_ssize_t _end_of_number(const unsigned char *text, Py_ssize_t i, Py_ssize_t end) noexcept
