-- Lets requests go that are over: all of them, or none.
-- KEYS: of each request those in flight, and what says that the request was not found.
-- ARGV: of each of these pairs the request, and for how long that is said (ms).
for at = 1, #KEYS, 2 do
    -- Refused if somebody has put something else there.
    redis.call('ZCARD', KEYS[at])
end
for at = 1, #KEYS, 2 do
    local request, lasts = ARGV[at], ARGV[at + 1]
    if redis.call('ZREM', KEYS[at], request) == 0 then
        -- It may still be on its way, on a connection that was given up.
        redis.call('SET', KEYS[at + 1], '', 'PX', lasts)
    end
end
return {}
