-- Counts a request by some rules, in order, until one refuses it.
-- KEYS: of each rule its window. ARGV: `fixed` or `sliding`, then of each rule how many requests
-- there may be, and how long the window is (ms).
-- Returns of each rule that was asked: whether it allows the request, how many are left, and how long
-- the window still is (ms).
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local is_sliding = ARGV[1] == 'sliding'
local standings = {}
for rule, key in ipairs(KEYS) do
    local limit, length = tonumber(ARGV[2 * rule]), tonumber(ARGV[2 * rule + 1])
    local held = redis.call('GET', key)
    local start, current, previous = now, 0, 0
    if held then
        start, current, previous = string.match(held, '^(%d+) (%d+) (%d+)$')
        if not start then
            return redis.error_reply('ERR ' .. key .. ' holds no window')
        end
        -- A clock that was set back does not make a window longer.
        start, current, previous = math.min(tonumber(start), now), tonumber(current), tonumber(previous)
    end
    local elapsed = now - start
    if elapsed >= length then
        local is_next = is_sliding and elapsed < 2 * length
        previous = is_next and current or 0
        current = 0
        start = is_next and start + length or now
        elapsed = now - start
    end
    local left = length - elapsed
    -- Rounded up: what may have been is not given away twice.
    local used = current + math.ceil(previous * left / length)
    if used >= limit then
        standings[#standings + 1] = 0
        standings[#standings + 1] = 0
        standings[#standings + 1] = left
        return standings
    end
    local lasts = left + (is_sliding and length or 0)
    local holds = string.format('%.0f %.0f %.0f', start, current + 1, previous)
    redis.call('SET', key, holds, 'PX', string.format('%.0f', lasts))
    standings[#standings + 1] = 1
    standings[#standings + 1] = limit - used - 1
    standings[#standings + 1] = left
end
return standings
