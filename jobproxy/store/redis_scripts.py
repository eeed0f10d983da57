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

#: KEYS claim, epoch, name; ARGV the new claim, how long to keep it, and the settle time. Returns
#: how long no new claim is granted, or 0 and the valid claim. The epoch is when the data began:
#: nodes see in the reply to a heartbeat that it is another one, and put their claims again. One
#: that is in the future, because the clock was ahead then, begins anew. The name is the claim's, by
#: its job id.
CLAIM = (
    _NOW
    + """
local since = redis.call('get', KEYS[2])
if not since or tonumber(since) > now then
  redis.call('set', KEYS[2], string.format('%.0f', now))
  since = now
end
local known = redis.call('get', KEYS[1])
if known then return {0, known} end
local pause = since + ARGV[3] - now
if pause > 0 then return {pause, ''} end
redis.call('set', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('set', KEYS[3], KEYS[1], 'PX', ARGV[2])
return {0, ARGV[1]}
"""
)

#: KEYS each claim and its name; ARGV how long to keep them, and each claim and whether its job has
#: ended (yes, no).
PUT_CLAIMS_AGAIN = """
for i = 1, #KEYS, 2 do
  local is_new = redis.call('set', KEYS[i], ARGV[i + 1], 'NX', 'PX', ARGV[1])
  if is_new and ARGV[i + 2] == 'no' then
    redis.call('set', KEYS[i + 1], KEYS[i], 'PX', ARGV[1])
  end
end
"""

#: KEYS claim, name; ARGV the claim to remove.
RELEASE_CLAIM = """
if redis.call('get', KEYS[1]) == ARGV[1] then redis.call('del', KEYS[1], KEYS[2]) end
"""

_FUNCTIONS = (
    _NOW
    + """
local function end_claim(name, key, job_id)
  key = key or redis.call('get', name)
  redis.call('del', name)
  local claim = key and redis.call('get', key)
  if claim and string.sub(claim, 1, #job_id) == job_id then
    redis.call('setrange', key, #job_id, '+')
  end
end
local function orphan_unconfirmed(node, orphans, unconfirmed, results)
  local sent = redis.call('zrange', unconfirmed .. node, 0, -1, 'WITHSCORES')
  for i = 1, #sent, 2 do
    if redis.call('exists', results .. sent[i]) == 1 then
      redis.call('zadd', orphans, sent[i + 1], sent[i])
    end
  end
  redis.call('del', unconfirmed .. node)
end
"""
)

#: KEYS result, orphans, nodes, note, upstream id, the claim's name, and the claim if it is known;
#: ARGV body, how long to keep it, job id, whether it is an orphan (yes, no, if-unconfirmed), the
#: head of the message, the channel of all nodes, the prefix of the channels of nodes, the prefix of
#: what is unconfirmed, the upstream id or nothing, and the nodes to send it to. Returns the value
#: of a Placement.
PUT_RESULT = (
    _FUNCTIONS
    + """
local stored = redis.call('set', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
redis.call('del', KEYS[4])
end_claim(KEYS[6], KEYS[7], ARGV[3])
if not stored and redis.call('get', KEYS[1]) ~= ARGV[1] then return 'conflict' end
local message, delivered = ARGV[5] .. ARGV[1], 0
local may_be_orphan = stored and ARGV[4] == 'if-unconfirmed'
for i = 10, #ARGV do
  local lease = redis.call('zscore', KEYS[3], ARGV[i])
  local receivers = redis.call('publish', ARGV[7] .. ARGV[i], message)
  if lease and tonumber(lease) > now and receivers > 0 then
    delivered = delivered + receivers
    if may_be_orphan then
      redis.call('zadd', ARGV[8] .. ARGV[i], now, ARGV[3])
      redis.call('pexpire', ARGV[8] .. ARGV[i], ARGV[2])
    end
  end
end
if #ARGV >= 10 and delivered == 0 then redis.call('publish', ARGV[6], message) end
if ARGV[4] == 'yes' or (may_be_orphan and delivered == 0) then
  redis.call('zadd', KEYS[2], now, ARGV[3])
end
if ARGV[9] ~= '' and (ARGV[4] == 'yes' or may_be_orphan) then
  redis.call('set', KEYS[5], ARGV[9], 'PX', ARGV[2])
end
if not stored then return 'duplicate' end
return delivered > 0 and 'taken' or 'orphaned'
"""
)

#: KEYS what is unconfirmed by this node, orphans, the claim's name, and the claim if it is known;
#: ARGV job id, whether a client got the result (yes, no).
CONFIRM = (
    _FUNCTIONS
    + """
redis.call('zrem', KEYS[1], ARGV[1])
if ARGV[2] == 'yes' then redis.call('zrem', KEYS[2], ARGV[1]) end
end_claim(KEYS[3], KEYS[4], ARGV[1])
"""
)

#: KEYS note, result; ARGV ack, how long to keep it.
PUT_NOTE = """
if redis.call('exists', KEYS[2]) == 0 then redis.call('set', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
"""

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

#: KEYS nodes, epoch, orphans; ARGV node, its lease, its channel, message, the prefixes of what is
#: unconfirmed and of results. What dead nodes have not confirmed become orphans. Returns the epoch,
#: which is another one if Redis has lost its data.
HEARTBEAT = (
    _FUNCTIONS
    + """
for _, node in ipairs(redis.call('zrangebyscore', KEYS[1], '-inf', now)) do
  orphan_unconfirmed(node, KEYS[3], ARGV[5], ARGV[6])
end
redis.call('zremrangebyscore', KEYS[1], '-inf', now)
redis.call('zadd', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('publish', ARGV[3], ARGV[4])
redis.call('set', KEYS[2], now, 'NX')
return redis.call('get', KEYS[2])
"""
)

#: KEYS nodes, orphans; ARGV node, the prefixes of what is unconfirmed and of results.
LEAVE = (
    _FUNCTIONS
    + """
orphan_unconfirmed(ARGV[1], KEYS[2], ARGV[2], ARGV[3])
redis.call('zrem', KEYS[1], ARGV[1])
"""
)

#: KEYS orphans; ARGV how many to list, the time and the job id after which to begin, the prefixes
#: of the keys of results and upstream ids. Returns the job id, the time, the age, the length and
#: the upstream id of each, and removes those from the list whose result has expired.
LIST_ORPHANS = (
    _NOW
    + """
local found, skipped = {}, 0
while #found < tonumber(ARGV[1]) do
  local listed = redis.call(
    'zrangebyscore', KEYS[1], ARGV[2], '+inf', 'WITHSCORES', 'LIMIT', skipped, ARGV[1])
  if #listed == 0 then break end
  for i = 1, #listed, 2 do
    local job_id, came = listed[i], listed[i + 1]
    skipped = skipped + 1
    if tonumber(came) > tonumber(ARGV[2]) or job_id > ARGV[3] then
      local length = redis.call('strlen', ARGV[4] .. job_id)
      if length > 0 then
        if #found < tonumber(ARGV[1]) then
          local id = redis.call('get', ARGV[5] .. job_id)
          table.insert(found, {job_id, came, now - came, length, id or ''})
        end
      else
        redis.call('zrem', KEYS[1], job_id)
        skipped = skipped - 1
      end
    end
  end
end
return found
"""
)

#: KEYS orphans; ARGV how long a result is kept. Returns how many orphans are kept.
COUNT_ORPHANS = (
    _NOW
    + """
return redis.call('zcount', KEYS[1], now - ARGV[1], '+inf')
"""
)

#: KEYS orphans, result; ARGV job id. Returns the body.
FIND_ORPHAN = """
return redis.call('zscore', KEYS[1], ARGV[1]) and redis.call('get', KEYS[2])
"""

#: KEYS nodes. Returns those that are alive.
LIST_NODES = _NOW + "return redis.call('zrangebyscore', KEYS[1], now, '+inf')"

#: KEYS the account's slots, its pause, nodes; ARGV how many there may be, the lease of one, the
#: name of the new one, which begins with that of its node. Returns whether one was free, and for
#: how long the account is paused.
ACQUIRE_SLOT = (
    _NOW
    + """
local paused = redis.call('pttl', KEYS[2])
if paused > 0 then return {0, paused} end
redis.call('zremrangebyscore', KEYS[1], '-inf', now)
for _, slot in ipairs(redis.call('zrange', KEYS[1], 0, -1)) do
  local lease = redis.call('zscore', KEYS[3], string.match(slot, '^[^:]*'))
  if not lease or tonumber(lease) <= now then redis.call('zrem', KEYS[1], slot) end
end
if redis.call('zcard', KEYS[1]) >= tonumber(ARGV[1]) then return {0, 0} end
redis.call('zadd', KEYS[1], now + ARGV[2], ARGV[3])
redis.call('pexpire', KEYS[1], ARGV[2])
return {1, 0}
"""
)

#: KEYS the account's pause; ARGV how long it is.
PAUSE_ACCOUNT = """
if redis.call('pttl', KEYS[1]) < tonumber(ARGV[1]) then
  redis.call('set', KEYS[1], '', 'PX', ARGV[1])
end
"""
