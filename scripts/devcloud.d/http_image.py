"""Makes an image whose data stay on an HTTP server: http_image.py GLANCE TOKEN NAME DATA_URL FILE FORMAT MODE.

Prints the id once the image is active. There are two ways, and both need an `http` store and the server's address allowed
in [import_filtering_opts]. By MODE:
hash     POST /v2/images/{id}/locations. Glance fetches the data and computes the hashes; ours passes SHA-512 along, so that
         the image becomes active only once it was verified. It needs an owner, which nobody has without authentication:
         the server then answers 500, since its table of tasks has `owner NOT NULL`.
claim    PATCH add /locations/-, which needs also [DEFAULT] show_multiple_locations = true. Active at once, with the hashes
         that the caller claims; Glance does not look at the data.
no-hash  The same without a claim: checksum and os_hash_value are null.
"""

import hashlib
import json
import sys
import time
import urllib.error
import urllib.request

glance, token, name, data_url, path, disk_format, mode = sys.argv[1:]
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def call(method, url, body=None, content_type="application/json"):
    data = json.dumps(body).encode() if body is not None else None
    headers = {"Content-Type": content_type, "Accept": "application/json"}
    if token:
        headers["X-Auth-Token"] = token
    with opener.open(urllib.request.Request(glance + url, data, headers, method=method), timeout=60) as answer:
        return json.loads(answer.read() or b"null")


def digest(algorithm):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def locate(image):
    hashes = {}
    if mode != "no-hash":
        hashes = {"os_hash_algo": "sha512", "os_hash_value": digest("sha512")}
    if mode != "hash":
        location = {"url": data_url, "metadata": {"store": "http"}}
        if hashes:
            location["validation_data"] = {"checksum": digest("md5"), **hashes}
        call("PATCH", f"/v2/images/{image}", [{"op": "add", "path": "/locations/-", "value": location}],
             "application/openstack-images-v2.1-json-patch")
        return
    call("POST", f"/v2/images/{image}/locations", {"url": data_url, "validation_data": hashes})
    deadline = time.monotonic() + 120
    while (shown := call("GET", f"/v2/images/{image}"))["status"] != "active" or shown.get("os_glance_import_task"):
        if time.monotonic() > deadline or (shown["status"] == "queued" and not shown.get("os_glance_import_task")):
            tasks = call("GET", f"/v2/images/{image}/tasks")["tasks"]
            raise RuntimeError(f"image {image} stays {shown['status']}: {tasks[-1]['message'] if tasks else 'no task'}")
        time.sleep(0.1)


image = None
try:
    image = call("POST", "/v2/images", {"name": name, "disk_format": disk_format, "container_format": "bare"})["id"]
    locate(image)
except (OSError, RuntimeError) as error:
    if isinstance(error, urllib.error.HTTPError):
        error = f"{error.url.removeprefix(glance)}: HTTP {error.code} {error.read().decode(errors='replace')}"
    if image:
        call("DELETE", f"/v2/images/{image}")
    sys.exit(str(error))
print(image)
