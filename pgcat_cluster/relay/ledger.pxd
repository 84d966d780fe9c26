cimport cython

from pgcat_cluster.relay.flows cimport Flow, Statement

cdef int PARSED, PARSED_QUIET, CLOSED, CLOSED_QUIET, DESCRIBED, DESCRIBED_QUIET, COLUMNS_QUIET, RUN_QUIET, READY, READY_QUIET
cdef Owed OWED_READY, OWED_SYNC_QUIET, OWED_CLOSE, OWED_CLOSE_QUIET, OWED_RUN_QUIET, OWED_PARSE_UNNAMED_QUIET, OWED_CLOSE_UNNAMED_QUIET, OWED_COLUMNS_QUIET, OWED_PROBE
cdef Statement ANY_STATEMENT

cdef class Owed:
    cdef public int kind
    cdef public bytes name
    cdef public Statement statement
    cdef public object errand

cdef class Ledger:
    cdef public list entries
    cdef public Py_ssize_t first

    cpdef bint is_empty(self) except? -1
    cpdef append(self, Owed owed)
    cpdef int kind(self) except? -1
    @cython.locals(entries=list, first=Py_ssize_t, owed=Owed)
    cpdef int pass_ready(self) except? -2
    cpdef Owed head(self)
    @cython.locals(owed=Owed)
    cpdef Owed pop(self)
