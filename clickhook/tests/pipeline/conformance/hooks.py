"""What schemathesis is told beyond the description: how a line of NDJSON is written."""

import json

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def ndjson(ctx, value):
    if isinstance(value, (bytes, str)):
        return value
    return json.dumps(value).encode("utf-8", "surrogatepass") + b"\n"
