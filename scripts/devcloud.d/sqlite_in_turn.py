"""Makes Glance work with SQLite under concurrent requests.

Glance opens deferred transactions and writes later. SQLite cannot upgrade two such transactions to a write at the same
time, and answers "database is locked" without waiting, which Glance turns into 500 for most concurrent uploads. Taking
the write lock at BEGIN makes them queue instead. A real cloud runs MySQL or PostgreSQL and has no such problem.
"""

import sqlite3
import time

from sqlalchemy import event
from sqlalchemy.engine import Engine


@event.listens_for(Engine, "begin")
def _begin_immediate(conn):
    if conn.dialect.name != "sqlite" or "in_transaction" in conn.info:
        return
    pooled = conn.connection
    # Before SQLAlchemy 1.4.24, which Glance 15 runs with, it has the other name.
    raw = pooled.driver_connection if hasattr(pooled, "driver_connection") else pooled.connection
    # Our own short sleeps: SQLite's back-off starves a waiter for up to a second.
    raw.execute("PRAGMA busy_timeout=0")
    end = time.monotonic() + 60
    while True:
        try:
            raw.execute("BEGIN IMMEDIATE")
            break
        except sqlite3.OperationalError:
            if time.monotonic() > end:
                raise
            time.sleep(0.0005)
    raw.execute("PRAGMA busy_timeout=60000")
    conn.info["in_transaction"] = True  # oslo.db then skips its own BEGIN
