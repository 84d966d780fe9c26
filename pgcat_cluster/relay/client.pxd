cimport cython

from pgcat_cluster.relay cimport frames, links, octets
from pgcat_cluster.relay cimport ledger as ledgers
from pgcat_cluster.relay cimport survey as surveys
from pgcat_cluster.relay.borrowing cimport Borrower
from pgcat_cluster.relay.coupling cimport ClientEnd, ServerEnd
from pgcat_cluster.relay.desk cimport Desk
from pgcat_cluster.relay.flows cimport Flow, Statement
from pgcat_cluster.relay.ledger cimport Ledger, Owed

cdef int PRIMARY, REPLICA, READS, SEQUENCES, CALLS, NOTED, BY_PATH, UNCLEAN, UNPINS, FINISHES, WATCHED, NESTS, PREPARES, LOOKS, OWN, BEGINS, HEARS_ALL

cdef class Client(Borrower):
    cpdef join(self, Desk desk, parameters)
    @cython.locals(position=Py_ssize_t, p="unsigned char *", count=Py_ssize_t, stop=Py_ssize_t, length=Py_ssize_t, kind=int, server=ServerEnd)
    cpdef Py_ssize_t consume(self, bytearray buffer, Py_ssize_t start, Py_ssize_t end) except? -1
    @cython.locals(header=Py_ssize_t, kind=int, length=Py_ssize_t, stop=Py_ssize_t)
    cdef Py_ssize_t _offer(self, bytearray buffer, Py_ssize_t position, Py_ssize_t end) except? -1
    cdef object _control(self)
    @cython.locals(server=ServerEnd)
    cdef _skip(self, int kind)
    @cython.locals(desk=Desk, flow=Flow, text_end=Py_ssize_t, server=ServerEnd)
    cdef Py_ssize_t _query(self, int kind, bytearray buffer, Py_ssize_t position, Py_ssize_t stop, Py_ssize_t end) except? -1
    cdef Py_ssize_t _refuse_now(self, int kind, Py_ssize_t stop, Py_ssize_t end) except? -1
    @cython.locals(desk=Desk, survey=int, whole=Py_ssize_t, server=ServerEnd, own=Statement, is_failed=bint)
    cdef Py_ssize_t _extended(self, int kind, bytearray buffer, Py_ssize_t position, Py_ssize_t stop, Py_ssize_t end) except? -1
    @cython.locals(p="unsigned char *", first_stop=Py_ssize_t, bind=Py_ssize_t, bind_stop=Py_ssize_t, is_parsed=bint, name=bytes, name_end=Py_ssize_t, length=Py_ssize_t, statement=Statement, flow=Flow, server=ServerEnd, renamed=bytearray)
    cdef Py_ssize_t _usual_batch(self, Desk desk, int kind, bytearray buffer, Py_ssize_t position, Py_ssize_t stop, Py_ssize_t end) except? -2
    @cython.locals(server=ServerEnd)
    cdef _begin_batch(self, Desk desk, bytearray buffer, Py_ssize_t position, Py_ssize_t end)
    @cython.locals(is_held=bint, limit=Py_ssize_t, name_end=Py_ssize_t, text_end=Py_ssize_t, name=bytes, statement=Statement, known=Statement, taken=Statement, flow=Flow, moved=ServerEnd, length=Py_ssize_t)
    cdef Py_ssize_t _parse(self, Desk desk, ServerEnd server, bytearray buffer, Py_ssize_t position, Py_ssize_t stop, Py_ssize_t end) except? -1
    @cython.locals(server=ServerEnd, statement=Statement)
    cdef ServerEnd _move(self, Desk desk, int role, Py_ssize_t shard)
    @cython.locals(limit=Py_ssize_t, portal_end=Py_ssize_t, name_end=Py_ssize_t, name=bytes, statement=Statement, typed=Statement, moved=ServerEnd, server_name=bytes, length=Py_ssize_t, role=int)
    cdef Py_ssize_t _bind(self, Desk desk, ServerEnd server, bytearray buffer, Py_ssize_t position, Py_ssize_t stop, Py_ssize_t end) except? -1
    @cython.locals(server=ServerEnd)
    cdef _sync(self)
    cdef _depart(self)
    cpdef stay(self)
    @cython.locals(server=ServerEnd)
    cpdef drained(self)
    cpdef hold_back(self)
    cpdef lost(self, reason)
    cpdef dismiss(self, bytes farewell)
    @cython.locals(server=ServerEnd)
    cdef _leave(self)
