"""What schemathesis is told beyond the description: how a line of NDJSON is written."""

import json

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def ndjson(ctx, value):
    if isinstance(value, (bytes, str)):
        return value
    return json.dumps(value).encode("utf-8", "surrogatepass") + b"\n"


# The one call that asks a server of others', the DNS, which may not answer.
ASKS_OTHERS = "POST /v1/domains/{id}/verify"


@schemathesis.check
def no_server_error(ctx, response, case):
    """A 503 is described, but nothing here is away: only what asks others may answer it."""
    if response.status_code == 503 and case.operation.label == ASKS_OTHERS:
        return
    if response.status_code >= 500:
        raise AssertionError(f"{case.operation.label} answers {response.status_code}: {response.text}")
