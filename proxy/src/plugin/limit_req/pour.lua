-- Pours a request into a leaky bucket.
-- KEYS: the bucket. ARGV: requests a second that leak out, requests that it holds.
-- Returns 0 if the request is one too many, else 1 and how long it has to wait (µs).
local DAY = 86400000
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local rate, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local held = redis.call('GET', KEYS[1])
local excess = 0
if held then
    local before, last = string.match(held, '^(%S+) (%d+)$')
    before, last = tonumber(before), tonumber(last)
    if not before or not last then
        return redis.error_reply('ERR ' .. KEYS[1] .. ' holds no bucket')
    end
    -- A clock that was set back leaks nothing.
    excess = math.max(before - math.max(now - last, 0) * rate / 1000000 + 1, 0)
end
if excess > burst then
    return {0}
end
local lasts = math.min(math.ceil((excess + 1) / rate * 1000), 366 * DAY)
local holds = string.format('%.17g %.0f', excess, now)
redis.call('SET', KEYS[1], holds, 'PX', string.format('%.0f', lasts))
return {1, math.min(math.floor(excess / rate * 1000000), 2 ^ 53)}
