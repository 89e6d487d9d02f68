"""The file operations of nova-compute's libvirt driver on its image cache, in their order, after Nova 34.0.0.

    nova_calls.py spawn INSTANCES IMAGE_ID BYTES qcow2|raw NAME    a guest's disk from an image
    nova_calls.py age INSTANCES MAX_AGE [IMAGE_ID...]              the image cache manager; these images are in use

Behind each step stands where Nova has it, below nova/. The test of the long run has Nova itself do the same.
"""

import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
import time


def run(*command):
    # privsep/qemu.py and virt/libvirt/utils.py: `env LC_ALL=C LANG=C qemu-img`
    return subprocess.run(["env", "LC_ALL=C", "LANG=C", *command], check=True, capture_output=True, text=True).stdout


def cache_name(image_id):  # virt/libvirt/imagecache.py: get_cache_fname
    return hashlib.sha1(image_id.encode("utf-8")).hexdigest()


class Synchronized:  # utils.synchronized(external=True): oslo.concurrency, a lock on a file that stays
    def __init__(self, instances, name):
        os.makedirs(os.path.join(instances, "locks"), exist_ok=True)
        self.path = os.path.join(instances, "locks", "nova-" + name)

    def __enter__(self):
        self.file = open(self.path, "a")
        fcntl.lockf(self.file, fcntl.LOCK_EX)

    def __exit__(self, *_):
        self.file.close()


def utime(path):  # privsep/path.py: utime
    assert os.path.exists(path)
    os.utime(path, None)


def qemu_img_info(path):  # virt/images.py: qemu_img_info; privsep/qemu.py: unprivileged_qemu_img_info
    assert os.path.exists(path)
    return json.loads(run("qemu-img", "info", path, "--force-share", "--output=json"))


def get_image_format(path):  # virt/images.py: get_image_format; oslo.utils decides after 256 KiB at most
    with open(path, "rb") as file:
        head = b""
        while len(head) < 256 * 1024 and (piece := file.read(4096)):
            head += piece
    return "qcow2" if head.startswith(b"QFI\xfb") else "raw"


def extend(disk, size, driver_format):  # virt/disk/api.py: extend
    if qemu_img_info(disk)["virtual-size"] < size:
        run("qemu-img", "resize", "-f", driver_format, disk, str(size))


def spawn(instances, image_id, size, images_type, name):  # virt/libvirt/imagebackend.py: Image.cache
    size = int(size)
    base_dir = os.path.join(instances, "_base")
    if not os.path.exists(base_dir):
        os.makedirs(base_dir)
    base = os.path.join(base_dir, cache_name(image_id))
    disk = os.path.join(instances, name, "disk")
    os.makedirs(os.path.dirname(disk), exist_ok=True)
    if not os.path.exists(disk) or not os.path.exists(base):  # Qcow2.create_image, Flat.create_image
        if not os.path.exists(base):
            with Synchronized(instances, cache_name(image_id)):  # fetch_func_sync
                print("downloads")
                with open(base + ".part", "wb") as part:  # images.fetch_to_raw
                    part.write(b"downloaded")
                os.rename(base + ".part", base)
        if images_type == "qcow2":
            get_image_format(base)  # safety_check
            utime(base)  # _update_utime_ignore_eacces
            assert qemu_img_info(base)["virtual-size"] <= size  # verify_base_size
            with Synchronized(instances, cache_name(image_id)):  # create_qcow2_image
                get_image_format(base)  # virt/libvirt/utils.py: create_image
                backing_format = qemu_img_info(base)["format"]
                options = f"backing_file={base},backing_fmt={backing_format}"
                run("qemu-img", "create", "-f", "qcow2", "-o", options, disk, str(size))
        else:
            utime(base)
            assert qemu_img_info(base)["virtual-size"] <= size
            with Synchronized(instances, cache_name(image_id)):  # copy_raw_image
                run("cp", "-r", base, disk)  # virt/libvirt/utils.py: copy_image
                extend(disk, size, "raw")
    if size > qemu_img_info(base)["virtual-size"]:
        extend(disk, size, qemu_img_info(disk)["format"])


def age(instances, max_age, *used):  # virt/libvirt/imagecache.py: ImageCacheManager.update
    base_dir = os.path.join(instances, "_base")
    unexplained = []
    for entry in os.listdir(base_dir):  # _scan_base_images
        path = os.path.join(base_dir, entry)
        if re.fullmatch("[0-9a-f]{40}(_.+)?", entry) and os.path.isfile(path):
            unexplained.append(path)
    for image_id in used:  # _age_and_verify_cached_images
        base = os.path.join(base_dir, cache_name(image_id))
        for path in (base, base + "_sm"):  # _find_base_file
            if os.path.exists(path):
                if path in unexplained:
                    unexplained.remove(path)
                utime(path)  # _mark_in_use
                print("in use", os.path.basename(path))
    for path in unexplained:  # _remove_old_enough_file
        if time.time() - os.path.getmtime(path) < float(max_age):
            print("too young", os.path.basename(path))
            continue
        with Synchronized(instances, os.path.basename(path)):
            if os.path.exists(path) and time.time() - os.path.getmtime(path) >= float(max_age):
                os.remove(path)
                print("removed", os.path.basename(path))


{"spawn": spawn, "age": age}[sys.argv[1]](*sys.argv[2:])
