-- Asks Keyward whether a request may pass. haproxy.cfg says for which requests:
--   http-request lua.keyward /auth?scope=orders:write
-- A request that may pass has txn.keyward_allowed set; every other one is answered here.

local file = assert(io.open(os.getenv("KEYWARD_TOKEN_FILE")))
local token = file:read("l")
file:close()
assert(token and token ~= "", "the file with Keyward's token is empty")

local IDENTITY = { "x-keyward-key-id", "x-keyward-account-id", "x-keyward-name", "x-keyward-scopes", "x-keyward-metadata" }
local REFUSALS = { [401] = true, [403] = true }

local function answer(txn, status, headers, body)
    local reply = txn:reply({ status = status, body = body })
    for name, value in pairs(headers) do
        reply:add_header(name, value)
    end
    txn:done(reply)
end

-- The first value of a header in an answer of the HTTP client; "" if there is none.
local function first(headers, name)
    return headers and headers[name] and headers[name][0] or ""
end

core.register_action("keyward", { "http-req" }, function(txn, uri)
    local received = txn.http:req_get_headers()
    -- The client yields while it waits, so other requests go on.
    local verdict = core.httpclient():get({
        url = "http://127.0.0.1:50081" .. uri, -- `listen keyward` of haproxy.cfg
        headers = {
            ["x-keyward-token"] = { token },
            ["x-forwarded-for"] = { txn.f:src() },
            ["apikey"] = received["apikey"],
            ["x-api-key"] = received["x-api-key"],
            ["authorization"] = received["authorization"],
        },
    })
    local headers = verdict.headers
    if verdict.status == 200 then
        for _, name in ipairs(IDENTITY) do
            txn.http:req_set_header(name, first(headers, name))
        end
        txn:set_var("txn.keyward_allowed", true)
    elseif REFUSALS[verdict.status] then
        local kept = { ["content-type"] = first(headers, "content-type") }
        if verdict.status == 401 then
            kept["www-authenticate"] = first(headers, "www-authenticate")
        end
        answer(txn, verdict.status, kept, verdict.body)
    end
    -- haproxy.cfg answers 503 to all other requests.
end, 1)
