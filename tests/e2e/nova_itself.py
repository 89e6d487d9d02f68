"""What nova_calls.py does, done by Nova 34.0.0 itself: its image backend and its image cache manager.

Of Nova are replaced only its client of Glance (by one without Keystone: GLANCE is its address) and its database (by none).
"""

import json
import logging
import os
import sys
import types
import urllib.request
import warnings
from unittest import mock

warnings.simplefilter("ignore")

import nova.privsep  # noqa: E402

nova.privsep.sys_admin_pctxt.set_client_mode(False)  # root already

import nova.conf  # noqa: E402
from nova import context, objects  # noqa: E402
from nova.virt import images  # noqa: E402
from nova.virt.libvirt import imagebackend, imagecache  # noqa: E402
from nova.virt.libvirt import utils as libvirt_utils  # noqa: E402
from oslo_concurrency import lockutils  # noqa: E402

CONF = nova.conf.CONF


class Glance:
    def get(self, _context, image_id):
        return json.load(urllib.request.urlopen(f"{os.environ['GLANCE']}/v2/images/{image_id}"))

    def download(self, _context, image_id, dest_path, trusted_certs=None):
        print("downloads")
        urllib.request.urlretrieve(f"{os.environ['GLANCE']}/v2/images/{image_id}/file", dest_path)


class Told(logging.Handler):
    WORDS = {"image is in use": "in use", "too young to remove": "too young", "Removing base": "removed"}

    def emit(self, record):
        said = record.getMessage()
        if record.levelno >= logging.ERROR:
            print(said)
        for words, short in self.WORDS.items():
            if words in said:
                path = record.args["base_file"] if isinstance(record.args, dict) else record.args[0]
                print(short, os.path.basename(path))


def prepare(instances):
    CONF([], project="nova", default_config_files=[])
    CONF.set_override("instances_path", instances)
    lockutils.set_defaults(os.path.join(instances, "locks"))
    objects.register_all()
    images.IMAGE_API = Glance()


def spawn(instances, image_id, size, images_type, name):
    disk = os.path.join(instances, name, "disk")
    os.makedirs(os.path.dirname(disk), exist_ok=True)
    backend = {"qcow2": imagebackend.Qcow2, "raw": imagebackend.Flat}[images_type](path=disk)
    backend.cache(
        fetch_func=libvirt_utils.fetch_image,
        context=context.get_admin_context(),
        filename=imagecache.get_cache_fname(image_id),
        size=int(size),
        image_id=image_id,
        trusted_certs=None,
    )


def age(instances, max_age, *used):
    CONF.set_override("remove_unused_original_minimum_age_seconds", int(max_age), "image_cache")
    logger = logging.getLogger("nova.virt.libvirt.imagecache")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(Told())
    guest = dict(name="i", uuid="u", task_state=None, vm_state="active", host=CONF.host, kernel_id=None, ramdisk_id=None)
    guests = [types.SimpleNamespace(image_ref=image_id, **guest) for image_id in used]
    with mock.patch.object(objects.BlockDeviceMappingList, "bdms_by_instance_uuid", return_value={}):
        imagecache.ImageCacheManager().update(context.get_admin_context(), guests)


prepare(sys.argv[2])
{"spawn": spawn, "age": age}[sys.argv[1]](*sys.argv[2:])
