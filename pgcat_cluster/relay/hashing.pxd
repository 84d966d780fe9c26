cimport cython

cdef unsigned int _SEED_HIGH, _SEED_LOW, _START, _INTEGER_A, _INTEGER_B, _INTEGER_C
cdef unsigned long long _ROW, _MASK_64

@cython.locals(mask="unsigned int")
cdef (unsigned int, unsigned int, unsigned int) _mix(unsigned int a, unsigned int b, unsigned int c) noexcept
@cython.locals(mask="unsigned int", high="unsigned long long")
cdef unsigned long long _final(unsigned int a, unsigned int b, unsigned int c) noexcept
@cython.locals(mask="unsigned int", start="unsigned int")
cdef (unsigned int, unsigned int, unsigned int) _seeded(unsigned int length) noexcept
@cython.locals(mask="unsigned int", high="long long", word="unsigned int")
cpdef unsigned long long hash_of_int(long long key) noexcept
@cython.locals(
    mask="unsigned int", text="const unsigned char *", left=Py_ssize_t, i=Py_ssize_t, a="unsigned int", b="unsigned int",
    c="unsigned int",
)
cpdef unsigned long long hash_of_bytes(bytes key) noexcept
@cython.locals(word="unsigned int")
cdef unsigned int _word(const unsigned char *text, Py_ssize_t start, Py_ssize_t length) noexcept
cpdef unsigned long long hash_of_row(unsigned long long column_hash) noexcept
