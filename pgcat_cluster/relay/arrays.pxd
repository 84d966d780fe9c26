cimport cython

from pgcat_cluster.relay cimport literals

cdef int PLAIN, QUOTED, ESCAPED, END, UNREAD

cdef Py_ssize_t opens_at(const unsigned char *text, Py_ssize_t start, Py_ssize_t stop) noexcept
@cython.locals(is_first=bint, kind=int, end=Py_ssize_t)
cdef (int, Py_ssize_t, Py_ssize_t, Py_ssize_t) next_element(
    const unsigned char *text, Py_ssize_t at, Py_ssize_t stop
) noexcept
cdef Py_ssize_t behind_blanks(const unsigned char *text, Py_ssize_t start, Py_ssize_t stop) noexcept
cdef bint is_null(const unsigned char *text, Py_ssize_t start, Py_ssize_t stop) noexcept
@cython.locals(plain=bytearray, count=Py_ssize_t)
cdef bytearray unescaped(const unsigned char *text, Py_ssize_t start, Py_ssize_t stop)
cdef long long element_type(long long oid) noexcept
