#!/usr/bin/env python3
"""Calls Keyward as a stranger would: no generated code, all that is known comes from reflection.

usage: reflection.py HOST:PORT TOKEN_FILE
"""
import sys

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

SERVICE = "keyward.v1.ApiKeyService"


class Caller:
    """Calls methods by their names, with messages made from descriptors."""

    def __init__(self, channel, token=None):
        self.channel = channel
        self.pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        self.metadata = [("authorization", f"Bearer {token}")] if token else []

    def call(self, method, _service=SERVICE, **fields):
        found = self.pool.FindServiceByName(_service).FindMethodByName(method)
        rpc = self.channel.unary_unary(
            f"/{_service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(found.output_type).FromString,
        )
        request = GetMessageClass(found.input_type)(**fields)
        return rpc(request, metadata=self.metadata, timeout=20)

    def name(self, message, field):
        """The name of an enum field's value."""
        enum = message.DESCRIPTOR.fields_by_name[field].enum_type
        return enum.values_by_number[getattr(message, field)].name


def error_info(pool, error):
    """The ErrorInfo in the details of an error, as (reason, domain)."""
    details = dict(error.trailing_metadata())["grpc-status-details-bin"]
    message = lambda name: GetMessageClass(pool.FindMessageTypeByName(f"google.rpc.{name}"))
    for detail in message("Status").FromString(details).details:
        if detail.type_url.endswith("/google.rpc.ErrorInfo"):
            info = message("ErrorInfo").FromString(detail.value)
            return info.reason, info.domain
    raise AssertionError("there is no ErrorInfo")


def refused(code, reason, caller, method, **fields):
    """Makes a call that must end with `code` and `reason`."""
    try:
        caller.call(method, **fields)
    except grpc.RpcError as error:
        assert error.code() == code, error
        info = error_info(caller.pool, error)
        assert info == (reason, "keyward"), info
    else:
        raise AssertionError(f"was not refused with {reason}")


def main(address, token_file):
    channel = grpc.insecure_channel(address)
    with open(token_file, encoding="ascii") as file:
        keyward = Caller(channel, file.read().strip())

    services = ProtoReflectionDescriptorDatabase(channel).get_services()
    for service in (SERVICE, "keyward.v1.AdminService", "grpc.health.v1.Health"):
        assert service in services, services
    methods = keyward.pool.FindServiceByName(SERVICE).methods_by_name
    assert {"Issue", "Revoke", "Verify", "VerifyBatch", "Get", "List", "Update"} <= set(methods)

    stranger = Caller(channel)
    health = stranger.call("Check", "grpc.health.v1.Health", service=SERVICE)
    assert stranger.name(health, "status") == "SERVING", health

    issued = keyward.call("Issue", account_id="42", scopes=["read"], metadata={"team": "x"})
    assert issued.created and issued.api_key.startswith("kw_")

    def verdict(**fields):
        verified = keyward.call("Verify", **fields)
        return keyward.name(verified, "verdict"), verified

    name, verified = verdict(api_key=issued.api_key, required_scopes=["read"])
    assert name == "VERDICT_VALID", name
    assert (verified.account_id, verified.key_id) == ("42", issued.key.key_id)
    assert dict(verified.metadata) == {"team": "x"}
    assert verdict(api_key="kw_x")[0] == "VERDICT_MALFORMED"

    batch = keyward.call("VerifyBatch", requests=[{"api_key": issued.api_key}, {"api_key": ""}])
    assert [keyward.name(one, "verdict") for one in batch.responses] == [
        "VERDICT_VALID", "VERDICT_MALFORMED",
    ]

    revoked = keyward.call("Revoke", key_id=issued.key.key_id, replace=True)
    assert revoked.confirmed_instances == 1 and revoked.api_key
    assert verdict(api_key=issued.api_key)[0] == "VERDICT_REVOKED"
    assert verdict(api_key=revoked.api_key, consistency=2)[0] == "VERDICT_VALID"

    unauthenticated, invalid = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INVALID_ARGUMENT
    refused(unauthenticated, "TOKEN_MISSING", stranger, "Verify", api_key="x")
    wrong = Caller(channel, "kwt_" + "0" * 49)
    refused(unauthenticated, "TOKEN_INVALID", wrong, "Verify", api_key=revoked.api_key)
    refused(invalid, "INVALID_FIELD", keyward, "Issue", account_id="")
    kept = {"key_id": revoked.replacement.key_id, "account_id": "42"}
    refused(invalid, "INVALID_FIELD", keyward, "Revoke", **kept)
    assert verdict(api_key=revoked.api_key)[0] == "VERDICT_VALID"
    print("all is well")


if __name__ == "__main__":
    main(*sys.argv[1:])
