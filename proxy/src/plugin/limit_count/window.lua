-- A window, in its key: when it began (ms), how many were counted in it, how many in the one before.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local is_sliding = ARGV[1] == 'sliding'

-- How the window in `key` stands, which is `length` ms long; nil and why, if none is in there.
local function look(key, length)
    local held = redis.call('GET', key)
    local start, current, previous = now, 0, 0
    if held then
        start, current, previous = string.match(held, '^(%d+) (%d+) (%d+)$')
        if not start then
            return nil, redis.error_reply('ERR ' .. key .. ' holds no window')
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
    return {
        key = key,
        start = start,
        current = current,
        previous = previous,
        left = left,
        -- For how long it means something.
        lasts = left + (is_sliding and length or 0),
        -- Rounded up: what may have been is not given away twice.
        before = math.ceil(previous * left / length),
    }
end

-- Counts some more in it.
local function add(window, count)
    window.current = window.current + count
    local holds = string.format('%.0f %.0f %.0f', window.start, window.current, window.previous)
    redis.call('SET', window.key, holds, 'PX', string.format('%.0f', window.lasts))
end

