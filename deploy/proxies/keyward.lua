-- Asks Keyward whether a request may pass. haproxy.cfg says for which requests:
--   http-request lua.keyward /auth?scope=orders:write
-- It sets txn.keyward_allowed and the identity (txn.keyward_key_id and so on) if the request may pass, and answers if
-- the key is refused. In all other cases, errors of this script included, haproxy.cfg answers 503.

local file = assert(io.open(os.getenv("KEYWARD_TOKEN_FILE")))
local token = file:read("l")
file:close()
assert(token and token ~= "", "the file with Keyward's token is empty")

local IDENTITY = { "key-id", "account-id", "name", "scopes", "metadata" }
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
    -- Each header has a table of values, from index 0.
    local headers = verdict.headers or {}
    if verdict.status == 200 then
        for _, name in ipairs(IDENTITY) do
            local values = headers["x-keyward-" .. name]
            -- Not as headers here: Lua drops a header without an error if the buffer has no room for it.
            txn:set_var("txn.keyward_" .. name:gsub("-", "_"), values and values[0] or "")
        end
        txn:set_var("txn.keyward_allowed", true)
    elseif verdict.status == 401 or verdict.status == 403 then
        local reply = txn:reply({ status = verdict.status, body = verdict.body })
        for _, name in ipairs(OF_A_REFUSAL) do
            for _, value in pairs(headers[name] or {}) do
                reply:add_header(name, value)
            end
        end
        txn:done(reply)
    end
end, 1)
