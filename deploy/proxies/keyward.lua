-- Asks Keyward whether a request may pass. haproxy.cfg says for which requests:
--   http-request lua.keyward /auth?scope=orders:write
-- A request that may pass has txn.keyward_allowed set; every other one is answered here.

local file = assert(io.open(os.getenv("KEYWARD_TOKEN_FILE")))
local token = file:read("l")
file:close()
assert(token and token ~= "", "the file with Keyward's token is empty")

local IDENTITY = { "x-keyward-key-id", "x-keyward-account-id", "x-keyward-name", "x-keyward-scopes", "x-keyward-metadata" }
local OF_A_REFUSAL = { "www-authenticate", "content-type" }

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
    local function header(name)
        local values = verdict.headers and verdict.headers[name]
        return values and values[0] or ""
    end
    if verdict.status == 200 then
        for _, name in ipairs(IDENTITY) do
            txn.http:req_set_header(name, header(name))
        end
        txn:set_var("txn.keyward_allowed", true)
    elseif verdict.status == 401 or verdict.status == 403 then
        local reply = txn:reply({ status = verdict.status, body = verdict.body })
        for _, name in ipairs(OF_A_REFUSAL) do
            if header(name) ~= "" then
                reply:add_header(name, header(name))
            end
        end
        txn:done(reply)
    end
    -- haproxy.cfg answers 503 to all other requests.
end, 1)
