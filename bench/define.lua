-- Creates definitions of custom kinds, each of a group and kind of its own, with a schema as operators have them.
local made, prefix = 0, ""

function init()
  -- The clock alone repeats between runs of the same second.
  local source = io.open("/dev/urandom", "rb")
  prefix = source:read(3):gsub(".", function(c) return string.format("%02x", c:byte()) end)
  source:close()
end

function request()
  made = made + 1
  local name = "t" .. prefix .. made
  local group = name .. ".example.com"
  local text = '{"type":"string","maxLength":64,"pattern":"^[a-z]+$"}'
  local item = '{"type":"object","required":["name"],"properties":{"name":' .. text .. ',"port":{"type":"integer","minimum":1,"maximum":65535}}}'
  local spec = '{"type":"object","properties":{"replicas":{"type":"integer","default":1},"image":{"type":"string"},"mode":{"type":"string","enum":["a","b"]},"items":{"type":"array","items":' .. item .. '}}}'
  local status = '{"type":"object","properties":{"ready":{"type":"boolean"},"conditions":{"type":"array","items":{"type":"object","properties":{"type":{"type":"string"},"status":{"type":"string"}}}}}}'
  local version = '{"name":"v1","served":true,"storage":true,"subresources":{"status":{}},"schema":{"openAPIV3Schema":{"type":"object","properties":{"spec":' .. spec .. ',"status":' .. status .. '}}}}'
  local names = '{"plural":"' .. name .. 's","singular":"' .. name .. '","kind":"K' .. name .. '","listKind":"K' .. name .. 'List"}'
  local body = '{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"' .. name .. 's.' .. group .. '"},"spec":{"group":"' .. group .. '","scope":"Namespaced","names":' .. names .. ',"versions":[' .. version .. ']}}'
  return wrk.format("POST", nil, nil, body)
end
