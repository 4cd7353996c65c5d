-- Posts prepared bodies, one after the other, and tells what came back.
--
--     wrk … --script load.lua URL -- FILE ROUND SECONDS
--
-- FILE has a JSON body a line. All clients begin at the same moment, and their answers may come in bursts, between which
-- a count would depend on when it ends. So the first ROUND answers are left out, and whole rounds are counted, for at
-- least SECONDS: it begins and ends with the last answer of a round, while others are being computed. A line of JSON
-- tells when counting begins and when it ends; whoever reads it ends the run. The last one tells the rest.

local ffi = require("ffi")
ffi.cdef [[
  typedef struct { long seconds; long nanoseconds; } moment;
  int clock_gettime(int clock, moment *now);
]]
-- Rounds of which not one request is answered, after which none will be.
local HOPELESS = 20

local MONOTONIC = 1
local moment = ffi.new("moment")

local function now()
  ffi.C.clock_gettime(MONOTONIC, moment)
  return tonumber(moment.seconds) + tonumber(moment.nanoseconds) / 1e9
end

local function tell(line, ...)
  io.stdout:write(string.format(line .. "\n", ...))
  io.stdout:flush()
end

local function quoted(text)
  return '"' .. text:gsub("[^%w%p ]", " "):gsub('[\\"]', "\\%0") .. '"'
end

-- In the thread that asks. Globals are what `done` can read.

local requests, place = {}, 0
local round, seconds

function init(args)
  round, seconds = tonumber(args[2]), tonumber(args[3])
  for body in io.lines(args[1]) do
    requests[#requests + 1] = wrk.format("POST", nil, { ["Content-Type"] = "application/json" }, body)
  end
  answers, refused, refusal = 0, 0, ""
  began, since, last, counted = 0, 0, 0, 0
end

function request()
  if began == 0 then began = now() end
  place = place % #requests + 1
  return requests[place]
end

function response(status, _, body)
  if status ~= 200 then
    refused = refused + 1
    if refused == 1 then refusal = status .. ": " .. body:sub(1, 200) end
    if answers == 0 and refused == HOPELESS * round then tell('{"event": "end"}') end
    return
  end
  answers = answers + 1
  if counted > 0 then return end
  last = now()
  if answers == round then
    since = last
    tell('{"event": "begin"}')
  elseif since > 0 and answers % round == 0 and last - since >= seconds then
    counted = answers - round
    tell('{"event": "end"}')
  end
end

-- In the thread that waits for it.

local thread

function setup(asking)
  thread = asking
end

function done(summary, latency)
  local errors = summary.errors
  tell(
    '{"event": "done", "answers": %d, "counted": %d, "began": %.6f, "since": %.6f, "last": %.6f, '
      .. '"refused": %d, "refusal": %s, "broken": %d, "p50_ms": %.3f, "p99_ms": %.3f}',
    thread:get("answers"), thread:get("counted"), thread:get("began"), thread:get("since"), thread:get("last"),
    thread:get("refused"), quoted(thread:get("refusal")),
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000
  )
end
