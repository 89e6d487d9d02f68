"""The WSGI entry point of the dev cloud's Glance: Glance itself."""

import sqlite_in_turn  # noqa: F401

from glance.wsgi.api import application  # noqa: E402,F401
