-- All limits of one request, poured together or not at all: what runs inside the server `valkey://`.
--
-- KEYS   one for each ask; all share a hash tag, so that a cluster has them in one place.
-- ARGV   1: for each ask five numbers, each a double of 8 bytes, the lowest byte first:
--          kind      0 (rate), 1 (quota) or 2 (concurrency)
--          enforced  1: unless it fits, nothing is poured
--          cost      units
--          room      0: how long a full bucket takes to drain, in µs; 1, 2: the capacity
--          unit      0: how long one unit of cost takes to drain, in µs; 1: 1, 2 or 3: hour, day or month; 2: a lease, in µs
--        2: how the answer's numbers are packed; 3: the name of the request's places in flight, if there are any; 4: there
--        is one: write nothing
-- answer doubles: now, the server's clock in µs, and for each ask: fits, 1 or 0; the state before pouring (0: theoretical
--        arrival time in µs; 1, 2: a count); the hour at which a quota's window ends.
--
-- Law: the server's clock decides. Everything is read before anything is written, so a request that is refused leaves
-- all as it was; but a rate whose state is further ahead than a full bucket, since a clock stepped back, begins to drain.
-- What is empty is gone ten seconds later at most. Numbers are doubles: whole ones are exact below 2^53, in µs since the
-- epoch until the year 2255; so a bucket that takes longer than two centuries to drain is not exact.

local ceil, floor, format = math.ceil, math.floor, string.format

-- A leaky bucket: bucket.py in another language.

local function pour(state, now, interval, span, cost)
  if state < now then
    state = now
  elseif state - now > span then
    state = now + span
  end
  local after = state + cost * interval
  if after - now <= span then return after end
  return nil
end

-- Calendar windows: windows.py in another language. Years begin in March, so that leap days come last (Hinnant, "chrono-
-- Compatible Low-Level Date Algorithms").

local function end_hour(window, now_s)
  local hour = floor(now_s / 3600)
  if window == 1 then return hour + 1 end
  local day = floor(hour / 24)
  if window == 2 then return (day + 1) * 24 end

  local function days_of_years(years)
    return 365 * years + floor(years / 4) - floor(years / 100) + floor(years / 400)
  end

  local shifted = day + 719468 -- since 1 March 0000
  local era = floor(shifted / 146097)
  local of_era = shifted - era * 146097
  local year = floor((of_era - floor(of_era / 1460) + floor(of_era / 36524) - floor(of_era / 146096)) / 365)
  local of_year = of_era - days_of_years(year)
  local month = floor((5 * of_year + 2) / 153)
  local first = day - of_year
  if month == 11 then return (first + days_of_years(year + 1) - days_of_years(year)) * 24 end
  return (first + floor((153 * (month + 1) + 2) / 5)) * 24
end

local function is_over(ends, window, now_s)
  local left = ends - floor(now_s / 3600)
  if left <= 1 or window == 2 and left <= 24 or window == 3 and left <= 672 then return left <= 0 end
  return ends > end_hour(window, end_hour(window, now_s) * 3600) -- a clock that was ahead began it
end

-- The request
-- Here speed counts, as all gateways wait for it: one call reads all strings, one says all numbers, no ask is a table or
-- a closure, and what is written keeps the end of its life where that is the same as before: a rate's is the end of the
-- ten seconds in which its bucket runs empty.

local KEYS, call, numbers = KEYS, redis.call, struct.unpack
local time = call('TIME')
local now = time[1] * 1000000 + time[2]
local stored = call('MGET', unpack(KEYS)) -- places are sorted sets: of those it says nothing
local asked, member, fits = ARGV[1], ARGV[3], true
local answer, kinds, afters = { now, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }, { 0, 0, 0, 0 }, { 0, 0, 0, 0 } -- room for four

for i = 1, #KEYS do
  local kind, enforced, cost, room, unit = numbers('<ddddd', asked, 40 * i - 39)
  local raw, state, after, window = stored[i], 0, false, 0
  if kind == 0 then
    if raw then state = raw + 0 end
    after = pour(state, now, unit, room, cost)
  elseif kind == 1 then
    if raw then
      local colon = raw:find(':', 1, true)
      window, state = raw:sub(1, colon - 1) + 0, raw:sub(colon + 1) + 0
    end
    if is_over(window, unit, time[1]) then -- one that is not stays, also when the clock has stepped back
      window, state, stored[i] = end_hour(unit, time[1]), 0, false
    end
    if state + cost <= room then after = state + cost end
  else
    state = call('ZCOUNT', KEYS[i], format('(%d', now), '+inf') -- leases that have ended may still be there
    if state < room then after = state + 1 end
  end
  if not after and enforced == 1 then fits = false end
  kinds[i], afters[i] = kind, after or false
  answer[3 * i - 1], answer[3 * i], answer[3 * i + 1] = after and 1 or 0, state, window
end

for i = 1, ARGV[4] and 0 or #KEYS do
  local key, kind, after, state = KEYS[i], kinds[i], fits and afters[i], answer[3 * i]
  if kind == 0 then
    if not after and state > now then
      local _, _, _, span = numbers('<dddd', asked, 40 * i - 39)
      if state - now > span then after = now + span end
    end
    if after and after > now and after ~= state then
      local since = after - after % 10000000
      if stored[i] and since == state - state % 10000000 then
        call('INCRBY', key, format('%d', after - state))
      else
        call('SET', key, format('%d', after), 'PXAT', format('%d', since / 1000 + 10000))
      end
    end
  elseif kind == 1 then
    if after and after > state then
      local window = answer[3 * i + 1]
      if stored[i] then
        call('SET', key, format('%d:%d', window, after), 'KEEPTTL')
      else
        call('SET', key, format('%d:%d', window, after), 'PXAT', format('%d', window * 3600000))
      end
    end
  elseif after then
    local _, _, _, _, lease = numbers('<ddddd', asked, 40 * i - 39)
    call('ZREMRANGEBYSCORE', key, '-inf', format('%d', now))
    call('ZADD', key, format('%d', now + lease), member)
    local lease_ms = ceil(lease / 1000)
    if call('PTTL', key) < lease_ms then call('PEXPIRE', key, lease_ms) end
  end
end

return struct.pack(ARGV[2], unpack(answer, 1, 3 * #KEYS + 1))
