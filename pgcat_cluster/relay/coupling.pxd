cimport cython

from pgcat_cluster.relay cimport links
from pgcat_cluster.relay.flows cimport Flow, FlowTable, Statement, Statements
from pgcat_cluster.relay.links cimport Link
from pgcat_cluster.relay.shapes cimport Scanner
from pgcat_cluster.relay.stock cimport Gate, Pool, Target, Waiter

cdef int BIND, CLOSE, DESCRIBE, EXECUTE, FUNCTION, FLUSH, PARSE, QUERY, SYNC, TERMINATE, COPY_DONE, COPY_DATA, COPY_FAIL
cdef int PARSE_COMPLETE, BIND_COMPLETE, CLOSE_COMPLETE, DATA_ROW, ERROR, COPY_IN, PARAMETER_STATUS, COPY_BOTH, READY, NOTIFICATION
cdef int OWED_PARSE, OWED_PARSE_QUIET, OWED_CLOSE, OWED_CLOSE_QUIET, OWED_READY, OWED_READY_QUIET
cdef int STATUS_IDLE
cdef Py_ssize_t LENGTH_MAX, BATCH_BYTES_MAX, NAMES_BYTES_MAX, CALL_BYTES_MAX
cdef int PRIMARY, REPLICA, READS, SEQUENCES, CALLS, FORGETS, UNPINS, ASKS
cdef int SURVEY_MORE, SURVEY_SERVER, SURVEY_LOCAL
cdef const unsigned char *PASSES
cdef const unsigned char *PREPARES
cdef Owed _READY, _SYNC_QUIET, _CLOSE, _PROBE
cdef bytes _SYNC_FRAME, _FLUSH_FRAME, _TERMINATE_FRAME, _CLOSE_COMPLETE_FRAME

cpdef bytes query_frame(bytes text)
cpdef bytes close_frame(bytes name)
cpdef bytes ready_frame(int status)
cdef bytes _cut(bytes name)
@cython.locals(position=Py_ssize_t, found=Py_ssize_t)
cpdef bytes error_code(bytearray buffer, Py_ssize_t start, Py_ssize_t stop)

cdef class Owed:
    cdef public int kind
    cdef public bytes name
    cdef public Statement statement
    cdef public object errand

cdef class Desk(Gate):
    cdef public object control
    cdef public object clock
    cdef public Scanner scanner
    cdef public FlowTable flows
    cdef public Statements statements
    cdef public Flow session_flow
    cdef public bint is_session_mode
    cdef public Py_ssize_t statement_bytes_max
    cdef public Py_ssize_t prepared_max
    cdef public unsigned long long upcalls
    cdef public unsigned long long unknown_statements
    cdef public unsigned long long queries
    cdef public unsigned long long transactions
    cdef public unsigned long long binds
    cdef public unsigned long long client_parses
    cdef public unsigned long long server_parses
    cdef public double query_s
    cdef public double transaction_s
    cdef public double wait_s
    cdef public unsigned long long repeats
    cdef public unsigned long long client_bytes_received
    cdef public unsigned long long client_bytes_sent
    cdef public unsigned long long server_bytes_received
    cdef public unsigned long long server_bytes_sent
    cdef public dict errors

    cpdef forget(self)

cdef class Client(Waiter):
    cdef public object receiver
    cdef public bint is_starting
    cdef public bint is_glued
    cdef public Desk desk
    cdef public object detail
    cdef public Server server
    cdef public Target target
    cdef public int status
    cdef public Flow flow
    cdef public int role
    cdef public bint decided
    cdef public bint awaiting
    cdef public bint unsynced
    cdef public bint executed
    cdef public bint is_simple
    cdef public bint failed
    cdef public bint skipping
    cdef public bint refused
    cdef public bint streaming
    cdef public bint lingering
    cdef public bint probing
    cdef public bint probed
    cdef public bint retry
    cdef public bytes request
    cdef public Py_ssize_t survey_end
    cdef public bint survey_reads
    cdef public bint primary_only
    cdef public bint shuns_replicas
    cdef public int attempts
    cdef public bytearray cork
    cdef public bint copying
    cdef public bint copy_ended
    cdef public bint copy_failed
    cdef public int flags
    cdef public object parameters
    cdef public bint settling
    cdef public bint greeting
    cdef public bint pinned
    cdef public bint has_shapes
    cdef public dict statements
    cdef public dict overlay
    cdef public dict planned
    cdef public Statement unnamed
    cdef public set spelled
    cdef public set names
    cdef public double wait_since
    cdef public double longest_wait_s
    cdef public double coupled_at
    cdef public double request_at
    cdef public double ready_at
    cdef public unsigned long long queries
    cdef public unsigned long long transactions

    cpdef join(self, Desk desk, parameters)
    @cython.locals(position=Py_ssize_t, p="unsigned char *", count=Py_ssize_t, stop=Py_ssize_t, length=Py_ssize_t, kind=int, server=Server)
    cpdef Py_ssize_t consume(self, bytearray buffer, Py_ssize_t start, Py_ssize_t end) except? -1
    @cython.locals(header=Py_ssize_t, kind=int, length=Py_ssize_t, stop=Py_ssize_t)
    cdef Py_ssize_t _offer(self, bytearray buffer, Py_ssize_t position, Py_ssize_t end) except? -1
    cdef object _control(self)
    cdef _drop(self, Py_ssize_t stop, Py_ssize_t end)
    cdef _skip(self, int kind)
    @cython.locals(server=Server)
    cdef _copy_frame(self, int kind, bytearray buffer, Py_ssize_t position, Py_ssize_t stop, Py_ssize_t end)
    cdef _forward(self, Server server, bytearray buffer, Py_ssize_t start, Py_ssize_t stop, Py_ssize_t end)
    @cython.locals(desk=Desk, flow=Flow, text_end=Py_ssize_t, server=Server)
    cdef Py_ssize_t _query(self, int kind, bytearray buffer, Py_ssize_t position, Py_ssize_t stop, Py_ssize_t end) except? -1
    cdef Py_ssize_t _refuse_now(self, int kind, Py_ssize_t stop, Py_ssize_t end) except? -1
    cdef Flow _unknown(self, Desk desk)
    @cython.locals(known=Flow, shape=bytes)
    cdef Flow _decide(self, Desk desk, bytearray buffer, Py_ssize_t start, Py_ssize_t stop)
    cdef _note(self, Flow flow)
    @cython.locals(target=Target, server=Server)
    cdef Server _checkout(self, Desk desk, int role)
    cdef _couple(self, Desk desk, Server server)
    @cython.locals(desk=Desk, role=int, server=Server)
    cpdef greet(self)
    @cython.locals(desk=Desk, waited_s=double)
    cpdef granted(self, Link server)
    cpdef fail(self, bytes error)
    @cython.locals(desk=Desk)
    cpdef repeat(self)
    @cython.locals(desk=Desk, survey=int, server=Server)
    cdef Py_ssize_t _extended(self, int kind, bytearray buffer, Py_ssize_t position, Py_ssize_t stop, Py_ssize_t end) except? -1
    @cython.locals(server=Server)
    cdef _begin_batch(self, Desk desk, bytearray buffer, Py_ssize_t position, Py_ssize_t end)
    @cython.locals(p="unsigned char *", position=Py_ssize_t, role=int, local=bint, reads=bint, found=bint, decisive=Flow, kind=int, length=Py_ssize_t, stop=Py_ssize_t, flow=Flow)
    cdef int _survey(self, Desk desk, bytearray buffer, Py_ssize_t start, Py_ssize_t end) except? -1
    @cython.locals(limit=Py_ssize_t, name_start=Py_ssize_t, name_end=Py_ssize_t, text_end=Py_ssize_t, text=bytes, name=bytes, statement=Statement, named=Statement, flow=Flow)
    cdef Flow _flow_of(self, Desk desk, int kind, bytearray buffer, Py_ssize_t position, Py_ssize_t stop, Py_ssize_t end)
    cdef Statement _statement(self, bytes name)
    cdef bint _closes_well(self, bytearray buffer, Py_ssize_t position, Py_ssize_t stop) except? -1
    @cython.locals(name=bytes)
    cdef Py_ssize_t _close_here(self, bytearray buffer, Py_ssize_t position, Py_ssize_t stop) except? -1
    cpdef _ensure(self, Desk desk, Server server, Statement statement)
    @cython.locals(name_end=Py_ssize_t, text_end=Py_ssize_t, name=bytes, text=bytes, types=bytes, statement=Statement, flow=Flow, moved=Server)
    cdef Py_ssize_t _parse(self, Desk desk, Server server, bytearray buffer, Py_ssize_t position, Py_ssize_t stop, Py_ssize_t end) except? -1
    @cython.locals(name=bytes, statement=Statement)
    cdef _spell_out(self, Server server)
    cdef bint _moves(self) except? -1
    @cython.locals(server=Server, statement=Statement)
    cdef Server _move(self, Desk desk)
    @cython.locals(limit=Py_ssize_t, portal_end=Py_ssize_t, name_end=Py_ssize_t, name=bytes, statement=Statement, moved=Server, server_name=bytes, length=Py_ssize_t)
    cdef Py_ssize_t _bind(self, Desk desk, Server server, bytearray buffer, Py_ssize_t position, Py_ssize_t stop, Py_ssize_t end) except? -1
    cdef _ensure_unnamed(self, Server server, Statement statement)
    @cython.locals(statement=Statement)
    cpdef bytes in_own_words(self, bytes body)
    cdef bytes _unknown_name(self, bytes name)
    @cython.locals(desk=Desk, name=bytes, statement=Statement, server_name=bytes)
    cdef _describe(self, Server server, bytearray buffer, Py_ssize_t position, Py_ssize_t stop)
    @cython.locals(name=bytes)
    cdef _close(self, Server server, bytearray buffer, Py_ssize_t position, Py_ssize_t stop)
    @cython.locals(server=Server)
    cdef _sync(self)
    cdef _probe(self, Server server)
    cdef _depart(self)
    cpdef stay(self)
    @cython.locals(server=Server)
    cpdef drained(self)
    cpdef hold_back(self)
    cpdef lost(self, reason)
    cpdef dismiss(self, bytes farewell)
    @cython.locals(server=Server)
    cdef _leave(self)

cdef class Server(Link):
    cdef public Pool pool
    cdef public object control
    cdef public object detail
    cdef public Client client
    cdef public object ledger
    cdef public bint quiet
    cdef public bint skipping
    cdef public bint dropping
    cdef public int status
    cdef public object parameters
    cdef public object base_parameters
    cdef public dict prepared
    cdef public Statement unnamed
    cdef public bint has_unnamed
    cdef public unsigned long long serial
    cdef public Py_ssize_t generation
    cdef public bint resting
    cdef public bint is_unclean
    cdef public bint is_stale
    cdef public bint is_retired
    cdef public bint is_fatal
    cdef public int cancels
    cdef public double abandoned_at
    cdef public double opened_at
    cdef public double used_at
    cdef public unsigned long long transactions

    @cython.locals(p="unsigned char *", position=Py_ssize_t, run=Py_ssize_t, count=Py_ssize_t, kind=int, length=Py_ssize_t, stop=Py_ssize_t, client=Client, renamed=bytearray)
    cpdef Py_ssize_t consume(self, bytearray buffer, Py_ssize_t start, Py_ssize_t end) except? -1
    cdef _look(self)
    @cython.locals(client=Client)
    cdef _deliver(self, bytearray buffer, Py_ssize_t start, Py_ssize_t end)
    @cython.locals(ledger=object, owed=Owed, desk=Desk, now=double)
    cdef _ready(self, Client client, int status)
    cpdef over(self, Desk desk, Client client)
    @cython.locals(client=Client)
    cpdef release(self)
    cpdef part(self)
    @cython.locals(kind=int, owed=Owed)
    cdef bint _is_ours(self) except? -1
    @cython.locals(owed=Owed, desk=Desk)
    cdef _completed(self, Client client, int kind)
    @cython.locals(owed=Owed, client=Client, first=bint)
    cdef _strike(self)
    @cython.locals(desk=Desk)
    cdef _error(self, Client client, bytes sqlstate, bint is_fatal)
    cdef _copy_begins(self, Client client)
    @cython.locals(flow=Flow)
    cdef _stand_aside(self, Client client)
    cpdef order(self, bytes text, errand)
    @cython.locals(owed=Owed, client=Client)
    cdef _swallow(self, int kind, bytearray buffer, Py_ssize_t start, Py_ssize_t stop)
    cpdef clean(self)
    cdef _rest(self)
    @cython.locals(client=Client, desk=Desk)
    cpdef abandon(self)
    cpdef evict(self, Py_ssize_t count)
    cpdef terminate(self)
    @cython.locals(client=Client)
    cpdef lost(self, reason)
    cdef _forget(self)
