cimport cython

from pgcat_cluster.relay cimport arrays, hashing, literals, octets
from pgcat_cluster.relay.shapes cimport Scanner

cdef int _UNSURE, _SEVERAL, _UNMAPPED, _NULL, _OUT_OF_RANGE, _WRONG_TEXT, _MANY, _UNREAD
cdef int _HASH, _SHA1, _MODULO, _LIST, _RANGE
cdef int _INTEGER, _TEXT, _UUID, _MOMENT
cdef int _UNKNOWN
cdef long long _MOMENT_MAX


@cython.final
cdef class ShardTable:
    cdef int _kind
    cdef dict _values
    cdef list _bounds
    cdef long long[::1] _starts, _owners
    cdef readonly str key_type
    cdef readonly Py_ssize_t shards

    @cython.locals(kind=int, low=Py_ssize_t, middle=Py_ssize_t, high=Py_ssize_t)
    cpdef Py_ssize_t shard_of_int(self, long long key) except? -200
    @cython.locals(place=Py_ssize_t)
    cpdef Py_ssize_t shard_of_bytes(self, bytes key) except? -200


@cython.final
cdef class Selector:
    cdef ShardTable _table
    cdef int _family
    cdef bint _is_varchar
    cdef long long _key_oid
    cdef Py_ssize_t _key_bytes
    cdef Py_ssize_t _slot_count, _number_count
    cdef long long[::1] _slots, _slot_casts, _signs, _slot_arrays, _numbers, _number_casts, _sole, _are_arrays
    cdef readonly bint has_constants, has_parameters

    @cython.locals(n=Py_ssize_t, slot=Py_ssize_t, place="long long", shard=Py_ssize_t, found=Py_ssize_t)
    cpdef Py_ssize_t by_constants(self, Scanner scanner, bytearray buffer, bint is_utf8=*) except? -200
    @cython.locals(
        at=Py_ssize_t, formats=Py_ssize_t, formats_at=Py_ssize_t, count=Py_ssize_t, found=Py_ssize_t, k=Py_ssize_t,
        number=Py_ssize_t, length=Py_ssize_t, is_null=bint, kind=int, declared="long long", width=Py_ssize_t, shard=Py_ssize_t,
    )
    cpdef Py_ssize_t by_parameters(
        self, bytearray buffer, Py_ssize_t start, Py_ssize_t stop, bytes types, bint is_utf8=*
    ) except? -200
    @cython.locals(k=Py_ssize_t)
    cpdef bint asks(self, bytes types) except? -1
    @cython.locals(k=Py_ssize_t, number=Py_ssize_t, known=list)
    cpdef bytes completed(self, bytes types, bytes told)
    @cython.locals(cast="long long")
    cdef Py_ssize_t _width(self, Py_ssize_t k, long long declared) noexcept
    cdef Py_ssize_t _bytes_of(self, long long oid) noexcept
    @cython.locals(
        cast="long long", is_array=bint, status=int, magnitude="unsigned long long", number="long long",
        tag_start=Py_ssize_t, text=bytes,
    )
    cdef Py_ssize_t _by_constant(
        self, Py_ssize_t slot, long long kind, bytearray buffer, Py_ssize_t start, Py_ssize_t stop, bint is_utf8
    ) except? -200
    cdef Py_ssize_t _by_value(
        self, Py_ssize_t k, Py_ssize_t width, bint is_binary, bytearray buffer, Py_ssize_t start, Py_ssize_t stop, bint is_utf8
    ) except? -200
    @cython.locals(number="long long")
    cdef Py_ssize_t _by_single(
        self, Py_ssize_t k, Py_ssize_t width, bint is_binary, bytearray buffer, Py_ssize_t start, Py_ssize_t stop, bint is_utf8
    ) except? -200
    @cython.locals(dimensions=Py_ssize_t, count=Py_ssize_t, found=Py_ssize_t, at=Py_ssize_t, length=Py_ssize_t, shard=Py_ssize_t)
    cdef Py_ssize_t _by_array(
        self, Py_ssize_t k, Py_ssize_t width, bint is_binary, bytearray buffer, Py_ssize_t start, Py_ssize_t stop, bint is_utf8
    ) except? -200
    @cython.locals(
        at=Py_ssize_t, found=Py_ssize_t, kind=int, begin=Py_ssize_t, end=Py_ssize_t, plain=bytearray, shard=Py_ssize_t
    )
    cdef Py_ssize_t _by_elements(
        self, Py_ssize_t width, bytearray buffer, Py_ssize_t start, Py_ssize_t stop, bint is_utf8
    ) except? -200
    @cython.locals(status=int, number="long long", key=bytes)
    cdef Py_ssize_t _by_written(
        self, Py_ssize_t width, bytearray buffer, Py_ssize_t start, Py_ssize_t stop, bint is_utf8
    ) except? -200
    cdef Py_ssize_t _by_integer(self, long long number, Py_ssize_t width) except? -200
    cdef Py_ssize_t _by_text(self, bytes text, bint is_utf8) except? -200

cdef Py_ssize_t integer_bytes(long long oid) noexcept
@cython.locals(at=Py_ssize_t)
cdef long long declared_type(bytes types, Py_ssize_t number) noexcept
@cython.locals(declared="long long")
cdef bint is_left_open(bytes types, Py_ssize_t number) noexcept
cdef int two_bytes(const unsigned char *buffer, Py_ssize_t at) noexcept
@cython.locals(number="long long", k=Py_ssize_t)
cdef long long signed_bytes(const unsigned char *buffer, Py_ssize_t at, Py_ssize_t width) noexcept
cdef bint has_byte(const unsigned char *buffer, Py_ssize_t start, Py_ssize_t stop, int byte) noexcept
