"""Verifies a message by the library of Standard Webhooks: webhook.py SECRET < HEADERS-AND-BODY.json"""

import json
import sys

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

message = json.load(sys.stdin)
webhook = Webhook(sys.argv[1])
webhook.verify(message["body"], message["headers"])
for name in ["webhook-id", "webhook-timestamp"]:
    headers = {**message["headers"], name: "1" + message["headers"][name]}
    try:
        webhook.verify(message["body"], headers)
    except WebhookVerificationError:
        continue
    sys.exit(f"another {name} has the same signature")
try:
    webhook.verify(message["body"] + " ", message["headers"])
    sys.exit("another body has the same signature")
except WebhookVerificationError:
    print("all is well")
