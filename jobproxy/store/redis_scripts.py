"""The Lua scripts that Redis runs, each as one atomic step.

They run on Redis 6.2 and newer. All times are those of Redis, as the clocks of the nodes may
differ. They cannot run on a Redis Cluster, because the keys of one script are on several of its
nodes.

The comment on each script names its KEYS, its ARGV and what it returns. Times are in milliseconds.
"""

_NOW = """
local time = redis.call('time')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

#: KEYS claim, epoch; ARGV the new claim, how long to keep it, and the settle time. Returns how long
#: no new claim is granted, or 0 and the valid claim. The epoch is when the data began.
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
local pause = since + ARGV[3] - now
if pause > 0 then return {pause, ''} end
redis.call('set', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {0, ARGV[1]}
"""
)

#: KEYS claims; ARGV how long to keep them, and each claim.
PUT_CLAIMS_AGAIN = """
for i, key in ipairs(KEYS) do
  redis.call('set', key, ARGV[i + 1], 'NX', 'PX', ARGV[1])
end
"""

#: KEYS claim; ARGV the claim to remove.
RELEASE_CLAIM = """
if redis.call('get', KEYS[1]) == ARGV[1] then redis.call('del', KEYS[1]) end
"""

#: KEYS claim; ARGV the claim, how long to keep it from now on.
SHORTEN_CLAIM = """
if redis.call('get', KEYS[1]) == ARGV[1] then redis.call('pexpire', KEYS[1], ARGV[2]) end
"""

#: KEYS result, orphans, nodes, and the claim if the job has a key; ARGV body, how long to keep it,
#: job id, whether it is an orphan (yes, no, if-undelivered), the head of the message, the channel
#: of all nodes, the prefix of the channels of nodes, and the nodes to send it to. Returns the value
#: of a Placement.
PUT_RESULT = (
    _NOW
    + """
local stored = redis.call('set', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
if KEYS[4] then
  local claim = redis.call('get', KEYS[4]) or ''
  if string.sub(claim, 1, #ARGV[3]) == ARGV[3] then redis.call('pexpire', KEYS[4], ARGV[2]) end
end
if not stored and redis.call('get', KEYS[1]) ~= ARGV[1] then return 'conflict' end
local message, delivered = ARGV[5] .. ARGV[1], 0
for i = 8, #ARGV do
  local lease = redis.call('zscore', KEYS[3], ARGV[i])
  local receivers = redis.call('publish', ARGV[7] .. ARGV[i], message)
  if lease and tonumber(lease) > now then delivered = delivered + receivers end
end
if #ARGV >= 8 and delivered == 0 then redis.call('publish', ARGV[6], message) end
if ARGV[4] == 'yes' or (ARGV[4] == 'if-undelivered' and stored and delivered == 0) then
  redis.call('zadd', KEYS[2], now, ARGV[3])
end
if not stored then return 'duplicate' end
return delivered > 0 and 'taken' or 'orphaned'
"""
)

#: KEYS orphans, and each result; ARGV job ids. Returns the results that there are.
COLLECT_RESULTS = """
local found = {}
for i, job_id in ipairs(ARGV) do
  found[i] = redis.call('get', KEYS[i + 1])
  if found[i] then redis.call('zrem', KEYS[1], job_id) end
end
return found
"""

#: KEYS orphans, result, note; ARGV job id. Returns the result and the note.
COLLECT_JOB = """
local body = redis.call('get', KEYS[2])
if body then redis.call('zrem', KEYS[1], ARGV[1]) end
return {body, redis.call('get', KEYS[3])}
"""

#: KEYS result, orphans; ARGV job id.
DISCARD_RESULT = "redis.call('del', KEYS[1]); redis.call('zrem', KEYS[2], ARGV[1])"

#: KEYS nodes; ARGV node, its channel, message. Returns how many received it, 0 if the node is dead.
SEND = (
    _NOW
    + """
local receivers = redis.call('publish', ARGV[2], ARGV[3])
local lease = redis.call('zscore', KEYS[1], ARGV[1])
return lease and tonumber(lease) > now and receivers or 0
"""
)

#: KEYS nodes, epoch; ARGV node, its lease, its channel, message. Returns whether Redis has lost its
#: data.
HEARTBEAT = (
    _NOW
    + """
redis.call('zremrangebyscore', KEYS[1], '-inf', now)
redis.call('zadd', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('publish', ARGV[3], ARGV[4])
return redis.call('set', KEYS[2], now, 'NX') and 1 or 0
"""
)

#: KEYS orphans; ARGV the maximum of orphans, the prefix of the keys of results. Returns the job id,
#: the age and the body of each, and removes those from the list whose result has expired.
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

#: KEYS orphans, result; ARGV job id. Returns the body.
FIND_ORPHAN = """
return redis.call('zscore', KEYS[1], ARGV[1]) and redis.call('get', KEYS[2])
"""

#: KEYS nodes. Returns those that are alive.
LIST_NODES = _NOW + "return redis.call('zrangebyscore', KEYS[1], now, '+inf')"

#: KEYS the account's slots; ARGV how many there may be, the lease of one, the name of the new one.
#: Returns whether one was free.
ACQUIRE_SLOT = (
    _NOW
    + """
redis.call('zremrangebyscore', KEYS[1], '-inf', now)
if redis.call('zcard', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
redis.call('zadd', KEYS[1], now + ARGV[2], ARGV[3])
redis.call('pexpire', KEYS[1], ARGV[2])
return 1
"""
)
