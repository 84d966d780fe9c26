cdef class Position:
    cdef readonly long long timeline
    cdef readonly long long lsn
