"""Calls the example API by the product's published SDK. Arguments: URL, a live key, a revoked key."""

import sys

from tronsave import TronsaveClient
from tronsave.errors import (
    TronsaveAuthError,
    TronsaveBusinessError,
    TronsaveRateLimitError,
    TronsaveValidationError,
)

url, live, dead = sys.argv[1:]


def sdk(key):
    return TronsaveClient(api_key=key, base_url=url, max_retries=0)


def error_of(call):
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("the call must fail")


me = sdk(live)
before = me.get_user_info()
assert before.id == "42", before
bought = me.buy_resource({"receiver": "TReceiver", "resourceAmount": 65_000})
order = me.get_order(bought.order_id)
assert (order.requester, order.resource_amount) == ("42", 65_000), order
page = me.get_orders()
assert (page.total, page.data[0].id) == (1, bought.order_id), page
after = me.get_user_info()
assert int(before.balance) - int(after.balance) == order.payout_amount, (before, after)

too_much = error_of(lambda: me.buy_resource({"receiver": "T", "resourceAmount": 999_999_999}))
assert isinstance(too_much, TronsaveBusinessError), too_much
invalid = error_of(lambda: me.buy_resource({"receiver": "", "resourceAmount": 65_000}))
assert isinstance(invalid, TronsaveValidationError), invalid

for key in ["nonsense", live[:-1] + ("a" if live[-1] != "a" else "b"), dead]:
    refused = error_of(sdk(key).get_user_info)
    assert isinstance(refused, TronsaveAuthError), refused
    assert (refused.code, refused.status) == ("INVALID_API_KEY", 401), refused

# More calls than the limit of one second, so one of them is refused.
limited = None
for _ in range(14):
    try:
        me.get_user_info()
    except TronsaveRateLimitError as error:
        limited = error
        break
assert limited is not None, "the rate is limited"
assert limited.retry_after_ms >= 1000, limited.retry_after_ms
