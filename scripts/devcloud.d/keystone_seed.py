"""Makes Keystone's database, keys and first user: keystone_seed.py CONFIG URL ADMIN_PASSWORD.

One process in place of four runs of keystone-manage, each of which spends two seconds on imports.
"""

import grp
import os
import pwd
import sys

from keystone.cmd import manage
from oslo_config import cfg

config, url, password = sys.argv[1:]
# Asked for even when nothing has to change hands.
owner = ["--keystone-user", pwd.getpwuid(os.getuid()).pw_name, "--keystone-group", grp.getgrgid(os.getgid()).gr_name]

for command in (
    ["db_sync"],
    ["fernet_setup", *owner],
    ["credential_setup", *owner],
    ["bootstrap", "--bootstrap-password", password, "--bootstrap-region-id", "RegionOne",
     "--bootstrap-admin-url", url, "--bootstrap-public-url", url, "--bootstrap-internal-url", url],
):
    cfg.CONF.reset()
    sys.argv = ["keystone-manage", "--config-file", config, *command]
    try:
        manage.main()
    except SystemExit as error:
        if error.code:
            raise
