"""The WSGI entry point of the dev cloud's Keystone, which reads sys.argv and would stumble over gunicorn's."""

import sys

sys.argv = ["keystone"]

from keystone.wsgi.api import application  # noqa: E402,F401
