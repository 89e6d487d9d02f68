"""Puts records of many images into the database of a devcloud's Glance: `fill_glance.py DATABASE COUNT [FIRST]`.

Each POST costs Glance some 20 ms and more, so 10,000 of them take minutes; rows take a second. The records look as Glance
makes them: active, without data that could be read, with hashes, a dozen properties and two tags, 1.6 KiB of JSON each.
They are named image-FIRST and on (from 1), and their times are a second apart, the last one is now.
"""

import datetime
import hashlib
import sqlite3
import sys
import uuid

PROPERTIES = {
    "architecture": "x86_64",
    "description": "A general purpose image, rebuilt each night from the distribution's packages and tested on every flavour",
    "hw_disk_bus": "scsi",
    "hw_machine_type": "q35",
    "hw_qemu_guest_agent": "yes",
    "hw_rng_model": "virtio",
    "hw_scsi_model": "virtio-scsi",
    "hw_vif_multiqueue_enabled": "true",
    "os_distro": "debian",
    "os_version": "12",
    "owner_specified.openstack.object": "images/{name}",
    "build_log": "https://builds.example.org/images/{name}/{id}/log.txt",
}


def fill(path, count, first):
    database = sqlite3.connect(path, timeout=60)
    database.execute("PRAGMA synchronous=off")
    begin = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None) - datetime.timedelta(seconds=count)
    images, properties, tags = [], [], []
    for number in range(count):
        name, id = f"image-{first + number:06}", str(uuid.uuid4())
        at = (begin + datetime.timedelta(seconds=number)).strftime("%Y-%m-%d %H:%M:%S.%f")
        md5, sha512 = hashlib.md5(id.encode()).hexdigest(), hashlib.sha512(id.encode()).hexdigest()
        images.append((id, name, number + 1, "active", at, at, 0, "qcow2", "bare", md5, 0, 0, 0, number + 1, "shared", 0, "sha512", sha512))
        properties += [(id, key, value.format(name=name, id=id), at, at, 0) for key, value in PROPERTIES.items()]
        tags += [(id, tag, at, at, 0) for tag in ("debian", "nightly")]
    with database:
        for table, columns, rows in (
            (
                "images",
                "id name size status created_at updated_at deleted disk_format container_format checksum min_disk min_ram"
                " protected virtual_size visibility os_hidden os_hash_algo os_hash_value",
                images,
            ),
            ("image_properties", "image_id name value created_at updated_at deleted", properties),
            ("image_tags", "image_id value created_at updated_at deleted", tags),
        ):
            columns = columns.split()
            places = ", ".join("?" * len(columns))
            database.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})", rows)


if __name__ == "__main__":
    fill(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 1)
