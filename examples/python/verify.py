"""Reads an API key from stdin and prints the verdict of Keyward. Exits with 0 if the key is VALID."""

import os
import pathlib
import sys

import grpc

PROTO = pathlib.Path(__file__).resolve().parents[2] / "proto"
sys.path.append(str(PROTO))
messages, services = grpc.protos_and_services("keyward/v1/api_key_service.proto")

endpoint = os.environ.get("KEYWARD_ENDPOINT", "").split(",")[0].strip() or "http://127.0.0.1:50051"
scheme, _, address = endpoint.partition("://")
authority = os.environ.get("KEYWARD_CA_FILE", "").strip()
trusted = pathlib.Path(authority).read_bytes() if authority else None
tls = grpc.ssl_channel_credentials(trusted)
channel = grpc.secure_channel(address, tls) if scheme == "https" else grpc.insecure_channel(address)
token = pathlib.Path(os.environ["KEYWARD_TOKEN_FILE"].strip()).read_text().strip()

answer = services.ApiKeyServiceStub(channel).Verify(
    messages.VerifyRequest(api_key=sys.stdin.read().strip()),
    metadata=[("authorization", f"Bearer {token}")],
    timeout=2,
)
# An error is an exception. It concerns the call and says nothing about the key.
print(messages.Verdict.Name(answer.verdict), answer.account_id)
sys.exit(0 if answer.verdict == messages.VERDICT_VALID else 2)
