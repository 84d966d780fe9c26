cimport cython

from pgcat_cluster.relay cimport frames, links, octets
from pgcat_cluster.relay cimport ledger as ledgers
from pgcat_cluster.relay.coupling cimport ClientEnd, ServerEnd
from pgcat_cluster.relay.desk cimport Desk
from pgcat_cluster.relay.flows cimport Flow, Statement
from pgcat_cluster.relay.ledger cimport Ledger, Owed
from pgcat_cluster.relay.links cimport Link
from pgcat_cluster.relay.stock cimport Pool

cdef Py_ssize_t CALL_BYTES_MAX
cdef int DOUBTS, FORGETS, LEAVES, UNPINS, ASKS

cdef class Server(ServerEnd):
    @cython.locals(p="unsigned char *", position=Py_ssize_t, run=Py_ssize_t, count=Py_ssize_t, kind=int, length=Py_ssize_t, stop=Py_ssize_t, client=ClientEnd, renamed=bytearray, sqlstate=bytes, is_swallowed=bint, is_own=bint, names_ours=bint, is_fatal=bint, is_refused=bint, is_ending=bint, is_passing=bint)
    cpdef Py_ssize_t consume(self, bytearray buffer, Py_ssize_t start, Py_ssize_t end) except? -1
    @cython.locals(ledger=Ledger, is_parsed=bint, rows=Py_ssize_t, ready=Py_ssize_t)
    cdef bint _usual_answer(self, ClientEnd client, bytearray buffer, Py_ssize_t start, Py_ssize_t end) except? -1
    @cython.locals(kind=int)
    cdef _look(self)
    @cython.locals(is_heard=bint)
    cdef bint _is_told(self, int kind) except? -1
    cpdef sync_behind(self, ClientEnd client)
    @cython.locals(client=ClientEnd)
    cdef _deliver(self, bytearray buffer, Py_ssize_t start, Py_ssize_t end)
    @cython.locals(next_kind=int)
    cdef _ready_aside(self, ClientEnd client, int status)
    @cython.locals(ledger=Ledger, owed=Owed, desk=Desk, next_kind=int, now=double, is_early=bint)
    cdef _ready(self, ClientEnd client, int status)
    @cython.locals(asks=bint)
    cpdef over(self, Desk desk, ClientEnd client)
    @cython.locals(client=ClientEnd)
    cpdef release(self)
    cpdef part(self)
    @cython.locals(owed=int)
    cdef bint _is_ours(self, int kind) except? -1
    @cython.locals(owed=Owed, desk=Desk, ledger=Ledger)
    cdef _completed(self, ClientEnd client, int kind)
    cdef _probed(self, ClientEnd client)
    @cython.locals(ledger=Ledger, kind=int, statement=Statement)
    cdef _told(self, ClientEnd client, bytes types)
    @cython.locals(is_end=bint)
    cdef _pass_columns(self, int kind)
    @cython.locals(statement=Statement, desk=Desk)
    cdef _parsed(self, ClientEnd client, Owed owed)
    @cython.locals(owed=Owed, client=ClientEnd, first=bint, is_client_s=bint)
    cdef bint _strike(self) except? -1
    @cython.locals(desk=Desk)
    cdef _error(self, ClientEnd client, bytes sqlstate, bint names_ours, bint is_fatal)
    @cython.locals(ahead=int, desk=Desk)
    cdef _copy_begins(self, ClientEnd client)
    @cython.locals(client=ClientEnd)
    cpdef sync_late(self)
    @cython.locals(flow=Flow)
    cdef _stand_aside(self, ClientEnd client)
    cpdef order(self, bytes text, errand)
    cpdef precede(self, bytes text)
    @cython.locals(owed=Owed, client=ClientEnd, is_within=bint)
    cdef _swallow(self, int kind, bytearray buffer, Py_ssize_t start, Py_ssize_t stop)
    @cython.locals(pool=Pool)
    cpdef clean(self)
    @cython.locals(client=ClientEnd, desk=Desk)
    cpdef abandon(self)
    cpdef evict(self, Py_ssize_t count)
    cpdef terminate(self)
    @cython.locals(client=ClientEnd)
    cpdef lost(self, reason)
    cdef _forget(self)
