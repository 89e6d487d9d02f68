"""Settings of the dev cloud's servers that are no options: a line for each request that begins, and who waits for the end
of a connection.

The access log has a request only when it has ended, which is some time after the client had the last byte of the answer.
Who counts requests waits until what has begun is in there.
"""

import os
import threading

from gunicorn import util

_begun = os.open(os.environ["DEVCLOUD_BEGUN_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def pre_request(_worker, request):
    # One write: lines of several threads and workers must not mix.
    os.write(_begun, f"{request.method} {request.uri} HTTP/1.1\n".encode("utf-8", "surrogateescape"))


# gunicorn 27 gives a client 2 s to close its side of a connection that is over, and waits for that in the one thread
# that accepts connections: one client that hangs, as tests have them, would keep all others from the server.
_close_graceful = util.close_graceful


def _close_apart(sock, *args, **kwargs):
    threading.Thread(target=_close_graceful, args=(sock, *args), kwargs=kwargs, daemon=True).start()


util.close_graceful = _close_apart
