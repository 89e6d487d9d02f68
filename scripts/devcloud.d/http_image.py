"""Makes an image whose data stay on an HTTP server: http_image.py GLANCE TOKEN NAME DATA_URL FILE FORMAT [hash|no-hash].

Prints the id once the image is active. Two ways exist:
hash     POST /v2/images/{id}/locations. Glance fetches the data once and computes the hashes; it needs an `http` store
         and the address allowed in [import_filtering_opts]. Ours passes SHA-512 along, so that Glance verifies it and
         makes the image active only after that.
no-hash  PATCH add /locations/-. Active at once, with checksum and os_hash_value null; it needs also
         [DEFAULT] show_multiple_locations = true.
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
    try:
        with opener.open(urllib.request.Request(glance + url, data, headers, method=method), timeout=60) as answer:
            return json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        sys.exit(f"{method} {url}: HTTP {error.code} {error.read().decode(errors='replace')}")


image = call("POST", "/v2/images", {"name": name, "disk_format": disk_format, "container_format": "bare"})["id"]
if mode == "no-hash":
    call("PATCH", f"/v2/images/{image}",
         [{"op": "add", "path": "/locations/-", "value": {"url": data_url, "metadata": {"store": "http"}}}],
         "application/openstack-images-v2.1-json-patch")
else:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha512").hexdigest()
    call("POST", f"/v2/images/{image}/locations",
         {"url": data_url, "validation_data": {"os_hash_algo": "sha512", "os_hash_value": digest}})

deadline = time.monotonic() + 120
while (shown := call("GET", f"/v2/images/{image}"))["status"] != "active" or shown.get("os_glance_import_task"):
    if time.monotonic() > deadline:
        sys.exit(f"image {image} is still {shown['status']}; the reason is in Glance's log and in "
                 f"GET /v2/images/{image}/tasks")
    time.sleep(0.1)
print(image)
