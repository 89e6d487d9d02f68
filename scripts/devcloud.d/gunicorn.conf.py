"""Settings of the dev cloud's servers that are no options: a line for each request that begins.

The access log has a request only when it has ended, which is some time after the client had the last byte of the answer.
Who counts requests waits until what has begun is in there.
"""

import os

_begun = os.open(os.environ["DEVCLOUD_BEGUN_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def pre_request(_worker, request):
    # One write: lines of several threads and workers must not mix.
    os.write(_begun, f"{request.method} {request.uri} HTTP/1.1\n".encode("utf-8", "surrogateescape"))
