-- All limits of one request, poured together or not at all: what runs inside the server `valkey://`.
--
-- KEYS   one for each ask; all share a hash tag, so that a cluster has them in one place.
-- ARGV   1: "1": write nothing; 2: the name of the request's places in flight; then for each ask five:
--          kind      r (rate), q (quota) or c (concurrency)
--          enforced  "1": unless it fits, nothing is poured
--          cost      units
--          room      r: how long a full bucket takes to drain, in µs; q, c: the capacity
--          unit      r: how long one unit of cost takes to drain, in µs; q: hour, day or month; c: a lease, in µs
-- answer "fits now", and for each ask " fits state ends": now is the server's clock in µs; the state is the one before
--        pouring (r: theoretical arrival time in µs; q, c: a count); ends is the hour at which a quota's window does.
--
-- Law: the server's clock decides. Everything is read before anything is written, so a request that is refused leaves
-- all as it was; but a rate whose state is further ahead than a full bucket, since a clock stepped back, begins to drain.
-- Numbers are doubles: whole ones are exact below 2^53, in µs since the epoch until the year 2255; so a bucket that takes
-- longer than two centuries to drain is not exact.

local ceil, floor, format = math.ceil, math.floor, string.format

-- A leaky bucket: bucket.py in another language.

local function bounded(state, now, span)
  if state < now then return now end
  if state - now <= span then return state end
  return now + span
end

local function pour(state, now, interval, span, cost)
  local after = bounded(state, now, span) + cost * interval
  if after - now <= span then return after end
  return nil
end

-- Calendar windows: windows.py in another language. Years begin in March, so that leap days come last (Hinnant, "chrono-
-- Compatible Low-Level Date Algorithms").

local function days_of_years(years)
  return 365 * years + floor(years / 4) - floor(years / 100) + floor(years / 400)
end

local function month_end_day(day)
  local shifted = day + 719468 -- since 1 March 0000
  local era = floor(shifted / 146097)
  local of_era = shifted - era * 146097
  local year = floor((of_era - floor(of_era / 1460) + floor(of_era / 36524) - floor(of_era / 146096)) / 365)
  local of_year = of_era - days_of_years(year)
  local month = floor((5 * of_year + 2) / 153)
  local first = day - of_year
  if month == 11 then return first + days_of_years(year + 1) - days_of_years(year) end
  return first + floor((153 * (month + 1) + 2) / 5)
end

local function end_hour(window, now_s)
  local hour = floor(now_s / 3600)
  if window == 'hour' then return hour + 1 end
  local day = floor(hour / 24)
  if window == 'day' then return (day + 1) * 24 end
  return month_end_day(day) * 24
end

-- The request
-- Here speed counts, as all gateways wait for it: one call reads all strings, and no ask is a table or a closure.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local dry, member = ARGV[1] == '1', ARGV[2]
local stored = redis.call('MGET', unpack(KEYS)) -- places are sorted sets: of those it says nothing
local answer, states, afters, ends, fits = {}, {}, {}, {}, true

for i, key in ipairs(KEYS) do
  local at = 5 * i - 2
  local kind, cost, room = ARGV[at], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local state, after, window = 0, nil, 0
  if kind == 'r' then
    state = tonumber(stored[i] or 0)
    after = pour(state, now, tonumber(ARGV[at + 4]), room, cost)
  elseif kind == 'q' then
    if stored[i] then
      local colon = stored[i]:find(':', 1, true)
      window, state = tonumber(stored[i]:sub(1, colon - 1)), tonumber(stored[i]:sub(colon + 1))
    end
    if window * 3600000000 <= now then -- one that is not over stays, also when the clock has stepped back
      window, state = end_hour(ARGV[at + 4], time[1]), 0
    end
    if state + cost <= room then after = state + cost end
  else
    state = redis.call('ZCOUNT', key, format('(%d', now), '+inf') -- leases that have ended may still be there
    if state < room then after = state + 1 end
  end
  if not after and ARGV[at + 1] == '1' then fits = false end
  states[i], afters[i], ends[i] = state, after or false, window
  answer[i + 1] = format('%d %d %d', after and 1 or 0, state, window)
end

for i, key in ipairs(dry and {} or KEYS) do
  local at = 5 * i - 2
  local kind, after = ARGV[at], fits and afters[i]
  if kind == 'r' then
    if not after and states[i] > now then after = bounded(states[i], now, tonumber(ARGV[at + 3])) end
    if after and after > now and after ~= states[i] then
      redis.call('SET', key, format('%d', after), 'PX', format('%d', ceil((after - now) / 1000)))
    end
  elseif kind == 'q' then
    if after and after > states[i] then
      redis.call('SET', key, format('%d:%d', ends[i], after), 'PXAT', format('%d', ends[i] * 3600000))
    end
  elseif after then
    redis.call('ZREMRANGEBYSCORE', key, '-inf', format('%d', now))
    redis.call('ZADD', key, format('%d', now + ARGV[at + 4]), member)
    local lease_ms = ceil(ARGV[at + 4] / 1000)
    if redis.call('PTTL', key) < lease_ms then redis.call('PEXPIRE', key, lease_ms) end
  end
end

answer[1] = format(fits and '1 %d' or '0 %d', now)
return table.concat(answer, ' ')
