cimport cython

from pgcat_cluster.relay cimport frames, octets
from pgcat_cluster.relay cimport ledger as ledgers
from pgcat_cluster.relay cimport survey as surveys
from pgcat_cluster.relay.coupling cimport ServerEnd
from pgcat_cluster.relay.desk cimport Desk
from pgcat_cluster.relay.flows cimport Flow, Statement
from pgcat_cluster.relay.ledger cimport Owed
from pgcat_cluster.relay.preparing cimport Preparer
from pgcat_cluster.relay.selectors cimport Selector
from pgcat_cluster.relay.stock cimport Target

cdef int SETS_PATH, RESTORES_PATH, SAVES, STEERS, REREADS, UNTOLD, IDLE, JOINS, ENDS, FINISHES, NOWHERE, NESTS, UNCLEAN, FORGETS, ANYWHERE, KEYED, LOOKS, COMMAND, BEGINS, CLOSES, OWN, HEARS_ALL
cdef Py_ssize_t UNSAID, PORTALS_MAX

cdef class Placer(Preparer):
    @cython.locals(found=Py_ssize_t, shard=Py_ssize_t, selector=Selector, text=bytes)
    cdef bint _place_text(self, Desk desk, Flow flow, bytearray buffer, Py_ssize_t start, Py_ssize_t stop) except? -1
    @cython.locals(flow=Flow, found=Py_ssize_t, shard=Py_ssize_t, bind=bytes)
    cdef bint _place_bind(self, Desk desk, Statement statement, bytearray buffer, Py_ssize_t start, Py_ssize_t stop) except? -1
    @cython.locals(selector=Selector, found=Py_ssize_t, bound=Py_ssize_t)
    cdef Py_ssize_t _found_by(self, Statement statement, bytearray buffer, Py_ssize_t start, Py_ssize_t stop) except? -200
    cdef Py_ssize_t _aim(self, Desk desk, Flow flow, Py_ssize_t found) except? -200
    cdef bint _goes_along(self, Flow flow) except? -1
    cdef bint _take_aim(self, Desk desk, Flow flow, Py_ssize_t shard) except? -1
    cdef bint _hear(self, Desk desk, bytearray buffer, Py_ssize_t start, Py_ssize_t stop) except? -1
    cdef bint _locate_constants(self, Desk desk, Statement statement, bytearray buffer, Py_ssize_t start, Py_ssize_t stop) except? -1
    @cython.locals(flow=Flow, selector=Selector)
    cdef _read_constants(self, Desk desk, Statement statement, bytearray buffer, Py_ssize_t start, Py_ssize_t stop)
    @cython.locals(text=bytes, types=bytes, flow=Flow, selector=Selector)
    cdef Statement _define(self, Desk desk, bint has_name, bytearray buffer, Py_ssize_t start, Py_ssize_t text_end, Py_ssize_t stop)
    @cython.locals(typed=Statement)
    cdef Statement _typed(self, Desk desk, ServerEnd server, bytes name, Statement statement)
    @cython.locals(server=ServerEnd, is_batch=bint)
    cdef Py_ssize_t _refuse(self, int kind, Py_ssize_t stop, Py_ssize_t end, Py_ssize_t position) except? -1
    @cython.locals(desk=Desk)
    cdef _note(self, Flow flow)
    cdef _save(self, Desk desk, bytes text)
    cdef Target _narrow(self, Target target)
    cdef bint _moves(self) except? -1
    cdef _leave_prepared(self, ServerEnd server)
    cdef _spoil(self, ServerEnd server)
    cdef _sync_here(self)
    cdef _unanswered(self)
    cdef _probe(self, ServerEnd server)
    cdef _stop_short(self)
    @cython.locals(flags=int, hint=Py_ssize_t)
    cdef bint _is_own(self, Desk desk, Flow flow, Statement statement) except? -1
    @cython.locals(answer=bytes)
    cdef bint _answers(self, Desk desk, Flow flow, bytes text) except? -1
    cdef bint _goes_on(self, Desk desk) except? -1
    cdef Py_ssize_t _own(self, Desk desk, int kind, bytearray buffer, Py_ssize_t position, Py_ssize_t stop, Py_ssize_t end) except? -1
    @cython.locals(limit=Py_ssize_t, portal_end=Py_ssize_t, name_end=Py_ssize_t, name=bytes, statement=Statement)
    cdef Py_ssize_t _own_unread(self, Desk desk, int kind, bytearray buffer, Py_ssize_t position, Py_ssize_t stop, Py_ssize_t end) except? -2
    @cython.locals(text_end=Py_ssize_t, flow=Flow, known=Statement, text=bytes)
    cdef Statement _unread_statement(self, Desk desk, bytearray buffer, Py_ssize_t start, Py_ssize_t stop)
    @cython.locals(statement=Statement)
    cdef Statement _own_described(self, Desk desk, bytearray buffer, Py_ssize_t position, Py_ssize_t stop)
    @cython.locals(statement=Statement)
    cdef _drop_portals(self)
    @cython.locals(is_idle=bint, tag=bytes, error=bytes)
    cdef bytes _own_transaction(self, Desk desk, Flow flow, bytes text, Py_ssize_t role_hint)
    @cython.locals(start=Py_ssize_t, name_end=Py_ssize_t, name=bytes)
    cdef Py_ssize_t _own_portal(self, Desk desk, int kind, bytearray buffer, Py_ssize_t position, Py_ssize_t stop, Py_ssize_t end) except? -2
    @cython.locals(server=ServerEnd, name_end=Py_ssize_t, name=bytes, bound=bytes, answer=bytes)
    cdef Py_ssize_t _own_frame(self, Desk desk, int kind, Statement statement, bytearray buffer, Py_ssize_t position, Py_ssize_t stop, Py_ssize_t end) except? -1
    @cython.locals(desk=Desk, text=bytearray)
    cpdef decide_anew(self, Statement statement)
