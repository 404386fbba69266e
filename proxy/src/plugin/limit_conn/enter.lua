-- Lets a request in if all rules have room for it.
-- KEYS: of each rule the requests in flight, each with the time at which it counts no more (ms); last,
-- what `leave` writes of a request that it did not find.
-- ARGV: the request, how long it counts at most (ms), then of each rule how many there may be.
-- Returns 0 if one has no room, else 1 and how many there are by each rule.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local request, lasts = ARGV[1], tonumber(ARGV[2])
local entered = {1}
-- This was held up on its way, and whoever asked has gone. It does not come again.
if redis.call('DEL', KEYS[#KEYS]) == 1 then
    return {0}
end
for rule = 1, #KEYS - 1 do
    redis.call('ZREMRANGEBYSCORE', KEYS[rule], '-inf', string.format('%.0f', now))
    local count = redis.call('ZCARD', KEYS[rule])
    if count >= tonumber(ARGV[rule + 2]) then
        return {0}
    end
    entered[rule + 1] = count + 1
end
for rule = 1, #KEYS - 1 do
    redis.call('ZADD', KEYS[rule], string.format('%.0f', now + lasts), request)
    if redis.call('PTTL', KEYS[rule]) < lasts then
        redis.call('PEXPIRE', KEYS[rule], string.format('%.0f', lasts))
    end
end
return entered
