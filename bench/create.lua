-- Creates ConfigMaps of 1 KiB, each with a name of its own.
local made, prefix = 0, ""
local data = string.rep("x", 1024)

function init()
  -- The clock alone repeats between runs of the same second.
  local source = io.open("/dev/urandom", "rb")
  prefix = source:read(6):gsub(".", function(c) return string.format("%02x", c:byte()) end)
  source:close()
end

function request()
  made = made + 1
  local body = '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b-' .. prefix .. '-' .. made
    .. '"},"data":{"a":"' .. data .. '"}}'
  return wrk.format("POST", nil, nil, body)
end
