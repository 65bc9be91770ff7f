-- wrk: requests of 1,000 users in turn, made once so that making them costs nothing while it measures.
local requests = {}
local number = 0

function init()
  for user = 1, 1000 do
    requests[user] = wrk.format("GET", "/", { ["host"] = "shop.example.com", ["x-user-id"] = "user-" .. user })
  end
end

function request()
  number = number % 1000 + 1
  return requests[number]
end
