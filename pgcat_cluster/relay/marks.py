"""Constants that the data plane and the session share: roles, what a statement does, names on servers."""

from __future__ import annotations

from typing import Final

# Which servers of a shard serve: its targets, by number.
PRIMARY: Final = 0
REPLICA: Final = 1  # whoever takes reads, by the pool's policy
ANY: Final = 2  # the replicas and the primary
STANDBY: Final = 3  # the replicas alone
ROLES: Final = 4

# How a server is chosen among several.
BALANCE_RANDOM: Final = 0
BALANCE_LEAST: Final = 1

# What a flow does, as bits.
READS: Final = 1  # only reads and stands alone: may be repeated while no byte of its answer has left us
ENDS: Final = 2  # may commit: if its server is lost before the answer, the outcome is unknown
LEAVES: Final = 4  # may leave something in the session: ask the server at the end of the transaction
UNCLEAN: Final = 8  # nobody knows what it did: reset the server link before anybody else gets it
SEQUENCES: Final = 16  # asks for the session's last sequence value
CALLS: Final = 32  # names a prepared statement in SQL: the session looks at each execution
FORGETS: Final = 64  # drops prepared statements behind our back (DEALLOCATE ALL, DISCARD ALL)
UNPINS: Final = 128  # may end what a client is pinned for
WRITES: Final = 256  # has effects that a repetition would have twice
LOADS: Final = 512  # loads a library: nothing unloads it but the end of the server link
COMMAND: Final = 1024  # ours to answer: no server sees it
WATCHED: Final = 2048  # somebody wants to be told of each execution
DOUBTS: Final = 4096  # may change data, for all that is known
DEFINES: Final = 8192  # defines functions
BY_CATALOG: Final = 16384  # was decided by what a server says of its functions
BEGINS: Final = 32768  # a lone BEGIN: in a sharded pool it is held back until a statement names the shard
CLOSES: Final = 65536  # a lone COMMIT or ROLLBACK
JOINS: Final = 131072  # only sets a transaction up: held back with its BEGIN
FINISHES: Final = 262144  # ends a transaction, alone or among other statements
BY_PATH: Final = 524288  # by search_path its names of tables have other rules: it holds for one alone
# In a pool where search_path matters:
SETS_PATH: Final = 1048576  # may set it
RESTORES_PATH: Final = 2097152  # may end what has set it
SAVES: Final = 4194304  # sets a savepoint
# In any pool:
NESTS: Final = 8388608  # sets, releases or goes back to a savepoint, or ends a transaction and begins another
REREADS: Final = 16777216  # may change what constants mean in what comes behind it
UNTOLD: Final = 33554432  # and no server tells of it

# Which statements may say in their text where they want to go.
HEARS_COMMENTS: Final = 0  # those with a comment that mentions a shard or a role
HEARS_ALL: Final = 1  # all: the pool has patterns of its own

# To which shards of a pool a statement may go.
ANYWHERE: Final = 0  # any of them has the answer
KEYED: Final = 1  # the one of its keys, which its selector finds
NOWHERE: Final = 2  # nobody can tell; where its transaction is, if there is one
UNREAD: Final = 3  # nobody can tell, not even by its transaction: its keys can not be read
# What is found instead of a shard while nothing was found, beside the codes of `selectors`.
UNSAID: Final = -100

# Names of prepared statements on server links. A client's own name never reaches a server under this prefix.
SERVER_NAME_PREFIX: Final = b"_pgcat_"
# A name that is never prepared: closing it succeeds and does nothing.
NOBODY: Final = b"_pgcat_nobody"
