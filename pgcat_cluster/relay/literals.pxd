cimport cython

cdef int _UNSURE, _OUT_OF_RANGE, _WRONG_TEXT
cdef unsigned long long _MOST

cdef bint is_blank(int byte) noexcept
@cython.locals(is_negative=bint, status=int, magnitude="unsigned long long")
cdef (int, long long) read_integer(const unsigned char *text, Py_ssize_t start, Py_ssize_t stop) noexcept
@cython.locals(begin=Py_ssize_t, digits=Py_ssize_t, magnitude="unsigned long long", byte=int, letter=int)
cdef (int, unsigned long long) read_digits(const unsigned char *text, Py_ssize_t start, Py_ssize_t stop) noexcept
@cython.locals(most="unsigned long long", number="long long")
cdef (int, long long) signed(unsigned long long magnitude, bint is_negative) noexcept
@cython.locals(found=bytearray, n=int, high=int, low=int)
cdef bytes read_uuid(const unsigned char *text, Py_ssize_t start, Py_ssize_t stop)
cdef int digit_of(int byte) noexcept
@cython.locals(
    length=Py_ssize_t, year=int, month=int, day=int, hour=int, minute=int, second=int, fraction=int, unit=int, zone=int,
    hours=int, minutes=int, seconds="long long",
)
cdef (int, long long) read_moment(const unsigned char *text, Py_ssize_t start, Py_ssize_t stop, bint has_zone) noexcept
cdef int two_digits(const unsigned char *text, Py_ssize_t at) noexcept
cdef int days_of(int year, int month) noexcept
@cython.locals(days=int)
cdef int days_before(int year, int month) noexcept
