"""How long things last in a store, in seconds, and how much is told; the same in every store."""

from jobproxy.wire.tokens import LIFETIME

#: That a job was claimed or noted: as long as its token is good.
CLAIM_TIME = LIFETIME
#: That a node lives, after its last beat.
LEASE_TIME = 10.0
#: Between two beats.
BEAT_TIME = 2.0
#: For the store to answer.
ANSWER_TIME = 2.0
#: That nobody gets a claim after a store was started without what it knew: the nodes claim again
#: meanwhile what they have claimed.
SETTLE_TIME = 5.0
#: Orphans that are told at once.
MAX_LISTED = 1_000
