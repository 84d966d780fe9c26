cimport cython

from pgcat_cluster.relay cimport octets, sockets

cdef Py_ssize_t WOULD_BLOCK
cdef Py_ssize_t HIGH_WATER_BYTES
cdef Py_ssize_t LOW_WATER_BYTES
cdef Py_ssize_t KEEP_BUFFER_BYTES
cdef Py_ssize_t TLS_READ_BYTES

cdef class Link:
    cdef public object socket
    cdef public int fd
    cdef public object reactor
    cdef public bytearray scratch
    cdef public bytearray pending
    cdef public bytearray out
    cdef public Py_ssize_t out_start
    cdef public bytearray plain
    cdef public Py_ssize_t remaining
    cdef public Link peer
    cdef public object tls
    cdef public bint handshaking
    cdef public bint reading
    cdef public bint writing
    cdef public bint consuming
    cdef public bint again
    cdef public bint closing
    cdef public bint closed
    cdef public unsigned long long bytes_received
    cdef public unsigned long long bytes_sent

    cpdef Py_ssize_t consume(self, bytearray buffer, Py_ssize_t start, Py_ssize_t end) except? -1
    cpdef lost(self, reason)
    cpdef drained(self)
    cpdef start(self)
    cpdef pause_reading(self)
    cpdef resume_reading(self)
    @cython.locals(scratch=bytearray, count=Py_ssize_t)
    cpdef on_readable(self)
    cdef _break_off(self)
    cpdef poke(self)
    @cython.locals(size=Py_ssize_t)
    cpdef _receive_tls(self, Py_ssize_t count)
    cpdef _send_answers(self)
    cpdef bint _shake_hands(self) except? -1
    @cython.locals(used=Py_ssize_t)
    cpdef take(self, bytearray buffer, Py_ssize_t start, Py_ssize_t end)
    @cython.locals(size=Py_ssize_t, used=Py_ssize_t, buffer=bytearray, peer=Link)
    cpdef replay(self)
    cpdef hold_back(self)
    cpdef Py_ssize_t unsent(self) except? -1
    cpdef put(self, bytearray buffer, Py_ssize_t start, Py_ssize_t end)
    cpdef put_bytes(self, bytes data)
    @cython.locals(sent=Py_ssize_t)
    cpdef bint write(self, bytearray buffer, Py_ssize_t start, Py_ssize_t end) except? -1
    cpdef flush(self)
    cpdef _seal(self)
    @cython.locals(out=bytearray, start=Py_ssize_t, sent=Py_ssize_t, size=Py_ssize_t)
    cpdef _send(self)
    cpdef on_writable(self)
    cpdef _failed(self)
    cpdef bint is_over(self) except? -1
    cpdef close_after_flush(self)
    cpdef _end_tls(self)
    cpdef close(self)
