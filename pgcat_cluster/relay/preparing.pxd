cimport cython

from pgcat_cluster.relay cimport frames, octets
from pgcat_cluster.relay cimport ledger as ledgers
from pgcat_cluster.relay.copying cimport Copier
from pgcat_cluster.relay.coupling cimport ServerEnd
from pgcat_cluster.relay.desk cimport Desk
from pgcat_cluster.relay.flows cimport Statement
from pgcat_cluster.relay.ledger cimport Ledger, Owed

cdef int UNPINS, BY_PATH

cdef class Preparer(Copier):
    @cython.locals(read_anew=Statement)
    cpdef Statement _ensure(self, Desk desk, ServerEnd server, bytes name, Statement statement)
    @cython.locals(known=Statement, read_anew=Statement)
    cdef Statement _read_anew(self, Desk desk, Statement statement)
    cpdef decide_anew(self, Statement statement)
    cdef _rename(self, bytes name, Statement statement)
    @cython.locals(excess=Py_ssize_t)
    cdef _make_room(self, Desk desk, ServerEnd server)
    @cython.locals(name=bytes, statement=Statement, is_any=bint)
    cdef _spell_out(self, ServerEnd server, bytes text, bint is_simple)
    cdef _prepare_as(self, ServerEnd server, bytes name, Statement statement)
    cdef _ensure_unnamed(self, ServerEnd server, Statement statement)
    @cython.locals(statement=Statement)
    cdef _forget_sequences(self, ServerEnd server)
    cpdef bytes in_own_words(self, bytes body)
    @cython.locals(owed=Owed)
    cpdef confirm(self)
    cdef bytes _unknown_name(self, bytes name)
    @cython.locals(desk=Desk, name=bytes, statement=Statement, server_name=bytes)
    cdef _describe(self, ServerEnd server, bytearray buffer, Py_ssize_t position, Py_ssize_t stop)
    cdef _expect_types(self, Desk desk, ServerEnd server, Statement statement)
    @cython.locals(name=bytes, statement=Statement)
    cdef _close(self, ServerEnd server, bytearray buffer, Py_ssize_t position, Py_ssize_t stop)
