-- Adds to some windows what was counted elsewhere, and tells how they stand.
-- KEYS: the windows. ARGV: `fixed` or `sliding`, then of each window how many requests are added, and
-- how long it is (ms).
-- Returns of each window: how many were added, how many that makes, how long the window still is (ms),
-- and for how long it means something (ms).
local windows = {}
-- All of them first: where one is wrong nothing is added, as all of it will be told again. One may be
-- there twice.
for at, key in ipairs(KEYS) do
    if not windows[key] then
        local window, wrong = look(key, tonumber(ARGV[2 * at + 1]))
        if wrong then
            return wrong
        end
        windows[key] = window
    end
end
local standings = {}
for at, key in ipairs(KEYS) do
    local window, told = windows[key], tonumber(ARGV[2 * at])
    add(window, told)
    standings[#standings + 1] = told
    standings[#standings + 1] = window.current + window.before
    standings[#standings + 1] = window.left
    standings[#standings + 1] = window.lasts
end
return standings
