-- Adds to some windows what was counted elsewhere, and tells how they stand.
-- KEYS: the windows. ARGV: `fixed` or `sliding`, then of each window how many requests are added, and
-- how long it is (ms).
-- Returns of each window: how many were added, how many that makes, how long the window still is (ms),
-- and for how long it means something (ms).
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local is_sliding = ARGV[1] == 'sliding'
local standings = {}
for at, key in ipairs(KEYS) do
    local told, length = tonumber(ARGV[2 * at]), tonumber(ARGV[2 * at + 1])
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
    current = current + told
    local lasts = left + (is_sliding and length or 0)
    local holds = string.format('%.0f %.0f %.0f', start, current, previous)
    redis.call('SET', key, holds, 'PX', string.format('%.0f', lasts))
    standings[#standings + 1] = told
    -- Rounded up: what may have been is not given away twice.
    standings[#standings + 1] = current + math.ceil(previous * left / length)
    standings[#standings + 1] = left
    standings[#standings + 1] = lasts
end
return standings
