"""What Redis does for us in one step each: scripts, which nothing else can come between.

They run on any version from 6.2 on, and take all times from Redis itself, so that the clocks of the
nodes do not count. A Redis Cluster, which has its keys on several nodes, cannot run them.
"""

_NOW = """
local time = redis.call('time')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

#: KEYS claim, epoch; ARGV claim, its life and the time to settle (ms).
#: Returns the ms for which nobody gets a claim, and the claim that counts.
CLAIM = (
    _NOW
    + """
local since = redis.call('get', KEYS[2])
if not since then
  redis.call('set', KEYS[2], now)
  since = now
end
local known = redis.call('get', KEYS[1])
if known then return {0, known} end
local rest = since + ARGV[3] - now
if rest > 0 then return {rest, ''} end
redis.call('set', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {0, ARGV[1]}
"""
)

#: KEYS claims; ARGV their life (ms), and each claim.
RECLAIM = """
for i, key in ipairs(KEYS) do
  redis.call('set', key, ARGV[i + 1], 'NX', 'PX', ARGV[1])
end
"""

#: KEYS claim; ARGV claim.
RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then redis.call('del', KEYS[1]) end"

#: KEYS claim; ARGV claim, its life from now on (ms).
SETTLE = """
if redis.call('get', KEYS[1]) == ARGV[1] then redis.call('pexpire', KEYS[1], ARGV[2]) end
"""

#: KEYS result, orphans, nodes, perhaps claim; ARGV body, its life (ms), handle, whether it is an
#: orphan (yes, no, unheard), the head of the message, the channel of all, the start of the channels
#: of nodes, and each node.
PUT = (
    _NOW
    + """
local stored = redis.call('set', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
if KEYS[4] then
  local claim = redis.call('get', KEYS[4]) or ''
  if string.sub(claim, 1, #ARGV[3]) == ARGV[3] then redis.call('pexpire', KEYS[4], ARGV[2]) end
end
if not stored and redis.call('get', KEYS[1]) ~= ARGV[1] then return 'conflict' end
local message, heard = ARGV[5] .. ARGV[1], 0
for i = 8, #ARGV do
  local lease = redis.call('zscore', KEYS[3], ARGV[i])
  local receivers = redis.call('publish', ARGV[7] .. ARGV[i], message)
  if lease and tonumber(lease) > now then heard = heard + receivers end
end
if #ARGV >= 8 and heard == 0 then redis.call('publish', ARGV[6], message) end
if ARGV[4] == 'yes' or (ARGV[4] == 'unheard' and stored and heard == 0) then
  redis.call('zadd', KEYS[2], now, ARGV[3])
end
if not stored then return 'duplicate' end
return heard > 0 and 'taken' or 'orphaned'
"""
)

#: KEYS orphans, and results; ARGV handles.
FETCH = """
local found = {}
for i, handle in ipairs(ARGV) do
  found[i] = redis.call('get', KEYS[i + 1])
  if found[i] then redis.call('zrem', KEYS[1], handle) end
end
return found
"""

#: KEYS orphans, result, note; ARGV handle.
FIND = """
local body = redis.call('get', KEYS[2])
if body then redis.call('zrem', KEYS[1], ARGV[1]) end
return {body, redis.call('get', KEYS[3])}
"""

#: KEYS result, orphans; ARGV handle.
DISCARD = "redis.call('del', KEYS[1]); redis.call('zrem', KEYS[2], ARGV[1])"

#: KEYS nodes; ARGV node, its channel, message. Returns how many heard it, if the node lives.
SEND = (
    _NOW
    + """
local receivers = redis.call('publish', ARGV[2], ARGV[3])
local lease = redis.call('zscore', KEYS[1], ARGV[1])
return lease and tonumber(lease) > now and receivers or 0
"""
)

#: KEYS nodes, epoch; ARGV node, the time that it lives without a beat (ms), its channel, message.
#: Returns whether the store knows nothing of what came before.
BEAT = (
    _NOW
    + """
redis.call('zremrangebyscore', KEYS[1], '-inf', now)
redis.call('zadd', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('publish', ARGV[3], ARGV[4])
return redis.call('set', KEYS[2], now, 'NX') and 1 or 0
"""
)

#: KEYS orphans; ARGV how many, the start of the names of results. Those whose result is no more are
#: dropped. Returns handle, age in ms, and body, of each.
LIST_ORPHANS = (
    _NOW
    + """
local found = {}
local listed = redis.call('zrange', KEYS[1], 0, ARGV[1] - 1, 'WITHSCORES')
for i = 1, #listed, 2 do
  local body = redis.call('get', ARGV[2] .. listed[i])
  if body then
    table.insert(found, {listed[i], now - listed[i + 1], body})
  else
    redis.call('zrem', KEYS[1], listed[i])
  end
end
return found
"""
)

#: KEYS orphans, result; ARGV handle.
FIND_ORPHAN = """
return redis.call('zscore', KEYS[1], ARGV[1]) and redis.call('get', KEYS[2])
"""

#: KEYS nodes. Returns those that live.
LIST_NODES = _NOW + "return redis.call('zrangebyscore', KEYS[1], now, '+inf')"

#: KEYS slots; ARGV how many there are, for how long one is taken (ms), the name of this one.
ACQUIRE = (
    _NOW
    + """
redis.call('zremrangebyscore', KEYS[1], '-inf', now)
if redis.call('zcard', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
redis.call('zadd', KEYS[1], now + ARGV[2], ARGV[3])
redis.call('pexpire', KEYS[1], ARGV[2])
return 1
"""
)
