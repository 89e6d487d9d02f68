"""The WSGI entry point of the dev cloud's Glance 15, the last but one with the v1 API: of its API server or its registry.

DEVCLOUD_SERVICE is `api` or `registry`, and DEVCLOUD_CONFIG its configuration file. Glance itself is not touched: each
shim below is for one thing in which the code of 2017 and the libraries and Python of today differ.
"""

import os
import sys
import threading

SERVICE = os.environ["DEVCLOUD_SERVICE"]
sys.argv = [f"glance-{SERVICE}"]

from oslo_config import cfg  # noqa: E402
from oslo_log import log as logging  # noqa: E402

import sqlite_in_turn  # noqa: E402,F401
import glance_store  # noqa: E402
import webob.exc  # noqa: E402
import glance.domain  # noqa: E402
from glance import notifier  # noqa: E402,F401
from glance.common import config, wsgi  # noqa: E402
from glance.db.sqlalchemy import api as database  # noqa: E402
from glance.db.sqlalchemy import models  # noqa: E402

CONF = cfg.CONF
CONF.import_group("profiler", "glance.common.wsgi")
logging.register_options(CONF)
CONF([], project="glance", prog=f"glance-{SERVICE}", default_config_files=[os.environ["DEVCLOUD_CONFIG"]])
config.set_config_defaults()
logging.setup(CONF, "glance")
if SERVICE == "registry":
    # In place of `glance-manage db_sync`, whose migrations need other libraries.
    models.BASE.metadata.create_all(database.get_engine())
else:
    glance_store.register_opts(CONF)
    glance_store.create_stores(CONF)
    glance_store.verify_default_store()

# An HTTPException that a controller returns is the response; the oslo.serialization of today writes its repr into a 200.
_json_default = wsgi.JSONResponseSerializer.default


def _default(self, response, result):
    if isinstance(result, webob.exc.HTTPException):
        raise TypeError("not serializable")
    return _json_default(self, response, result)


wsgi.JSONResponseSerializer.default = _default

# Else the list of v2 recurses for ever.
glance.domain.ExtraProperties.keys = dict.keys


class _Pool:
    """What runs copy-from: a pool of green threads never runs without an eventlet hub."""

    def spawn_n(self, function, *arguments, **keywords):
        threading.Thread(target=function, args=arguments, kwargs=keywords, daemon=True).start()

    spawn = spawn_n


wsgi.get_asynchronous_eventlet_pool = lambda size=1000: _Pool()

_glance = config.load_paste_app(f"glance-{SERVICE}")


def application(environ, start_response):
    """Glance, with the bytes of headers taken as UTF-8: Python 3 hands them over as Latin-1, and it ran on Python 2."""
    if environ["PATH_INFO"] == "/healthcheck":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"OK"]
    for name in [name for name in environ if name.startswith("HTTP_X_IMAGE_META")]:
        try:
            environ[name] = environ[name].encode("latin-1").decode("utf-8")
        except UnicodeError:
            pass

    def start(status, headers, exc_info=None):
        headers = [(name, value.encode("utf-8").decode("latin-1")) for name, value in headers]
        return start_response(status, headers, exc_info)

    return _glance(environ, start)
