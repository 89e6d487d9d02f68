"""Makes what is missing of the dev cloud's users, projects and catalogue: keystone_users.py KEYSTONE_URL GLANCE_URL.

Run at each start: it changes nothing that is already as it should be, and corrects addresses after a change of ports.
"""

import json
import sys
import urllib.parse
import urllib.request

keystone, glance = sys.argv[1:]
# No proxy, whatever the environment says: everything is on this machine.
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
headers = {"Content-Type": "application/json"}


def call(method, path, body=None):
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(f"{keystone}/{path}", data, headers, method=method)
    with opener.open(request, timeout=60) as response:
        return response.headers, json.loads(response.read() or b"null")


def ensure(kind, key, body, **also):
    """The id of the thing of this kind whose `key` is as in `body`; it is made when there is none."""
    query = urllib.parse.urlencode({key: body[key], **also})
    found = call("GET", f"{kind}s?{query}")[1][f"{kind}s"]
    if found:
        return found[0]["id"]
    return call("POST", f"{kind}s", {kind: body})[1][kind]["id"]


def user(name, project, role):
    project_id = ensure("project", "name", {"name": project, "domain_id": "default"})
    user_id = ensure("user", "name", {
        "name": name, "password": f"{name}pw", "domain_id": "default", "default_project_id": project_id})
    role_id = ensure("role", "name", {"name": role})
    call("PUT", f"projects/{project_id}/users/{user_id}/roles/{role_id}")
    return user_id


domain = {"id": "default"}
scope = {"project": {"name": "admin", "domain": domain}}
identity = {"methods": ["password"],
            "password": {"user": {"name": "admin", "password": "adminpw", "domain": domain}}}
answer, _ = call("POST", "auth/tokens", {"auth": {"identity": identity, "scope": scope}})
headers["X-Auth-Token"] = answer["X-Subject-Token"]

glance_id = user("glance", "service", "service")
# For the limits that it asks Keystone for (oslo.limit), it must be able to look at the catalogue.
reader = ensure("role", "name", {"name": "reader"})
call("PUT", f"system/users/{glance_id}/roles/{reader}")
user("alice", "alpha", "member")
user("bob", "beta", "member")
user("rita", "alpha", "reader")

wanted = {
    ensure("service", "type", {"type": "image", "name": "glance"}): glance,
    ensure("service", "type", {"type": "identity", "name": "keystone"}): keystone,
}
endpoints = call("GET", "endpoints")[1]["endpoints"]
for service, url in wanted.items():
    for interface in ("public", "internal", "admin"):
        body = {"service_id": service, "interface": interface, "region_id": "RegionOne", "url": url}
        old = [e for e in endpoints if e["service_id"] == service and e["interface"] == interface]
        if not old:
            call("POST", "endpoints", {"endpoint": body})
        elif old[0]["url"] != url:
            call("PATCH", f"endpoints/{old[0]['id']}", {"endpoint": body})
