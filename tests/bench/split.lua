-- What the KNHK filter does for a request, as a Lua filter would: delete clients' headers, hash the user, set the variant,
-- route again, count by variant and latency. It has no snapshots, no service and no receipts; the weight stands below.
local bit = require("bit")

local SALT = "shop"
local WEIGHT = 0.2
local THRESHOLD_MS = 250
local counts = { stable = { requests = 0, errors = 0, over = 0 }, canary = { requests = 0, errors = 0, over = 0 } }

-- FNV-1a, 32 bits. LuaJIT multiplies doubles, so the product is put together from halves.
local function hash(text)
  local h = 2166136261
  for i = 1, #text do
    h = bit.bxor(h, text:byte(i))
    local low, high = bit.band(h, 0xffff), bit.rshift(h, 16)
    h = bit.tobit(low * 16777619 + bit.lshift(bit.band(high * 16777619, 0xffff), 16))
  end
  return h % 4294967296
end

function envoy_on_request(handle)
  local headers = handle:headers()
  headers:remove("x-knhk-variant")
  headers:remove("x-knhk-rollout")
  headers:remove("x-knhk-flags")
  headers:remove("x-knhk-class")
  headers:remove("x-knhk-policy")
  headers:remove("x-knhk-receipt")
  local user = headers:get("x-user-id")
  local variant = "stable"
  if user and headers:get(":authority") == "shop.example.com" then
    if hash(SALT .. "\0" .. user) < WEIGHT * 4294967296 then
      variant = "canary"
    end
    headers:add("x-knhk-variant", variant)
    headers:add("x-knhk-rollout", "shop")
    headers:add("x-knhk-policy", "1.1")
    handle:clearRouteCache()
  end
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set("knhk", "variant", variant)
  metadata:set("knhk", "began", handle:timestamp())
end

function envoy_on_response(handle)
  local about = handle:streamInfo():dynamicMetadata():get("knhk")
  local count = counts[about["variant"]]
  count.requests = count.requests + 1
  if tonumber(handle:headers():get(":status")) >= 500 then
    count.errors = count.errors + 1
  end
  if handle:timestamp() - about["began"] > THRESHOLD_MS then
    count.over = count.over + 1
  end
end
