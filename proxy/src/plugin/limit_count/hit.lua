-- Counts a request by some rules, in order, until one refuses it.
-- KEYS: of each rule its window. ARGV: `fixed` or `sliding`, then of each rule how many requests
-- there may be, and how long the window is (ms).
-- Returns of each rule that was asked: whether it allows the request, how many are left, and how long
-- the window still is (ms).
local standings = {}
for rule, key in ipairs(KEYS) do
    local limit, length = tonumber(ARGV[2 * rule]), tonumber(ARGV[2 * rule + 1])
    local window, wrong = look(key, length)
    if wrong then
        return wrong
    end
    local used = window.current + window.before
    if used >= limit then
        standings[#standings + 1] = 0
        standings[#standings + 1] = 0
        standings[#standings + 1] = window.left
        return standings
    end
    add(window, 1)
    standings[#standings + 1] = 1
    standings[#standings + 1] = limit - used - 1
    standings[#standings + 1] = window.left
end
return standings
