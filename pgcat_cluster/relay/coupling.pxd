cimport cython

from pgcat_cluster.relay cimport frames
from pgcat_cluster.relay.desk cimport Desk
from pgcat_cluster.relay.flows cimport Flow, Statement
from pgcat_cluster.relay.ledger cimport Ledger
from pgcat_cluster.relay.links cimport Link
from pgcat_cluster.relay.positions cimport Position
from pgcat_cluster.relay.stock cimport Pool, Target, Waiter

cdef int PRIMARY, ENDS, CHANGES

cdef class ClientEnd(Waiter):
    cdef public object receiver
    cdef public bint is_starting
    cdef public bint is_glued
    cdef public Desk desk
    cdef public object detail
    cdef public ServerEnd server
    cdef public Target target
    cdef public Pool pool
    cdef public int status
    cdef public Flow flow
    cdef public int role
    cdef public Py_ssize_t shard
    cdef public Py_ssize_t home
    cdef public Py_ssize_t hint
    cdef public int role_hint
    cdef public bint aside
    cdef public bint strays
    cdef public Py_ssize_t shard_next
    cdef public bytes refusal
    cdef public bint spoils
    cdef public bint spoiling
    cdef public bint decided
    cdef public bint awaiting
    cdef public bint unsynced
    cdef public bint finishes
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
    cdef public int copy_ahead
    cdef public bint copy_synced
    cdef public bint copy_doubt
    cdef public Py_ssize_t copy_syncs
    cdef public list held
    cdef public int held_role
    cdef public Py_ssize_t held_hint
    cdef public dict portals
    cdef public Py_ssize_t shard_wish
    cdef public int role_wish
    cdef public bint wishes_end
    cdef public bint saves
    cdef public int completed
    cdef public int reads_wish
    cdef public int flags
    cdef public dict positions
    cdef public Position needs
    cdef public bint fell_behind
    cdef public object parameters
    cdef public bint settling
    cdef public bint greeting
    cdef public bint pinned
    cdef public bint has_shapes
    cdef public bint is_utf8
    cdef public bytes context
    cdef public bytes path
    cdef public Py_ssize_t saved_in
    cdef public dict statements
    cdef public dict overlay
    cdef public dict planned
    cdef public Statement surveyed
    cdef public Statement found
    cdef public list answered
    cdef public Statement unnamed
    cdef public set spelled
    cdef public set names
    cdef public bint rereads
    cdef public bint untold
    cdef public bint is_alone
    cdef public bytes context_before
    cdef public double wait_since
    cdef public double longest_wait_s
    cdef public double coupled_at
    cdef public double request_at
    cdef public double ready_at
    cdef public unsigned long long queries
    cdef public unsigned long long transactions
    cdef public unsigned long long errors

    @cython.locals(flags=int)
    cpdef bint may_have_written(self) except? -1
    cpdef repeat(self)
    cpdef confirm(self)
    cpdef bytes in_own_words(self, bytes body)

cdef class ServerEnd(Link):
    cdef public Pool pool
    cdef public object control
    cdef public object detail
    cdef public ClientEnd client
    cdef public Ledger ledger
    cdef public bint quiet
    cdef public bint skipping
    cdef public bint dropping
    cdef public int status
    cdef public object parameters
    cdef public object base_parameters
    cdef public dict prepared
    cdef public Statement unnamed
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
    cdef public unsigned long long queries
    cdef public unsigned long long errors
    cdef public double query_s
    cdef public double transaction_s
    cdef public double wait_s
    cdef public unsigned long long prepared_hits
    cdef public unsigned long long prepared_misses
    cdef public unsigned long long prepared_evictions

    cpdef over(self, Desk desk, ClientEnd client)
    cpdef part(self)
    cpdef sync_late(self)
    cpdef sync_behind(self, ClientEnd client)
    cpdef order(self, bytes text, errand)
    cpdef precede(self, bytes text)
    cpdef abandon(self)
    cpdef evict(self, Py_ssize_t count)
