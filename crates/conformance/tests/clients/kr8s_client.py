"""kr8s from PyPI: create, get, pages, selectors, patches, watch, scale, custom objects, refusals, delete."""

import sys

import kr8s
from kr8s.objects import ConfigMap, CustomResourceDefinition, Deployment, Namespace, new_class

NS = sys.argv[1]
api = kr8s.api(namespace=NS)


def config_map(name, labels=None, **data):
    return ConfigMap({"metadata": {"name": name, "namespace": NS, "labels": labels or {}}, "data": data})


def refused(code, reason, act):
    """That the server refuses, as the client's own error."""
    try:
        act()
    except kr8s.ServerError as error:
        assert (error.response.status_code, error.status["reason"]) == (code, reason), error.status
    else:
        raise SystemExit(f"{reason} was expected")


def missing(act):
    try:
        act()
    except kr8s.NotFoundError:
        return
    raise SystemExit("nothing was expected")


assert api.version()["minor"].startswith("36"), api.version()
assert any(one["name"] == "deployments" and one["version"] == "apps/v1" for one in api.api_resources())
assert api.whoami()

namespace = Namespace({"metadata": {"name": NS}})
namespace.create()

# Two pages: the client asks for a hundred at a time.
for number in range(110):
    config_map(f"page-{number}", {"parity": "odd" if number % 2 else "even", "tier": f"t{number % 5}"}).create()
pages = [one.name for one in api.get("configmaps", label_selector="parity")]
assert len(pages) == len(set(pages)) == 110, len(pages)
assert len(list(api.get("configmaps", label_selector={"parity": "odd"}))) == 55
assert len(list(api.get("configmaps", label_selector="parity=even,tier in (t1,t2)"))) == 22
assert len(list(api.get("configmaps", label_selector="parity,tier notin (t1)"))) == 88
assert [one.name for one in api.get("configmaps", field_selector={"metadata.name": "page-7"})] == ["page-7"]

# A life, and the watch that tells it.
one = config_map("one", {"told": "yes"}, a="1")
one.create()
before = one.metadata.resourceVersion
refused(409, "AlreadyExists", config_map("one").create)
assert ConfigMap.get("one", namespace=NS).raw == one.raw and one.exists()
one.patch({"data": {"a": None, "b": "2"}})
assert one.raw["data"] == {"b": "2"}, one.raw
one.patch([
    {"op": "test", "path": "/data/b", "value": "2"}, {"op": "add", "path": "/data/c", "value": "3"}], type="json")
assert one.raw["data"] == {"b": "2", "c": "3"}, one.raw
refused(422, "Invalid", lambda: one.patch([{"op": "test", "path": "/data/b", "value": "0"}], type="json"))
refused(409, "Conflict", lambda: one.patch({"metadata": {"resourceVersion": before}, "data": {"a": "late"}}))
one.label(colour="red")
one.annotate({"example.com/note": "kept"})
one.refresh()
assert one.labels == {"told": "yes", "colour": "red"} and one.annotations == {"example.com/note": "kept"}, one.raw
one.delete()
missing(one.refresh)
missing(one.delete)
missing(lambda: ConfigMap.get("one", namespace=NS, timeout=0))
assert not one.exists()
told = []
for kind, seen in api.watch("configmaps", label_selector="told=yes", since=before):
    told.append((kind, seen.metadata.resourceVersion))
    if kind == "DELETED":
        break
assert [kind for kind, _ in told] == ["MODIFIED"] * 4 + ["DELETED"], told
versions = [int(version) for _, version in told]
assert versions == sorted(set(versions)), told

# The same client's kinds with scale and status.
labels = {"app": "web"}
web = Deployment({"metadata": {"name": "web", "namespace": NS}, "spec": {
    "replicas": 0, "selector": {"matchLabels": labels}, "template": {
        "metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}}}})
web.create()
web.scale(2)
assert web.replicas == 2 and web.metadata.generation == 2, web.raw
web.patch({"status": {"observedGeneration": 2, "conditions": [
    {"type": "Available", "status": "True", "reason": "Told", "message": "by hand"}]}}, subresource="status")
web.wait("condition=Available", timeout=30)
refused(422, "Invalid", lambda: web.patch({"spec": {"selector": {"matchLabels": {"app": "other"}}}}))

# A kind that the server learns on the way.
group = f"{NS}.example.com"
definition = CustomResourceDefinition({"metadata": {"name": f"gadgets.{group}"}, "spec": {
    "group": group, "scope": "Namespaced", "names": {"plural": "gadgets", "singular": "gadget", "kind": "Gadget"},
    "versions": [{"name": "v1", "served": True, "storage": True, "subresources": {"status": {}},
                  "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                      "spec": {"type": "object", "properties": {"size": {"type": "integer", "maximum": 9}}},
                      "status": {"type": "object", "properties": {"size": {"type": "integer"}}}}}}}]}})
definition.create()
# Not by `wait`, which stumbles over the `conditions: null` that a definition begins with.
for _, seen in api.watch("customresourcedefinitions", field_selector={"metadata.name": definition.name}, since="0"):
    if any(one["type"] == "Established" and one["status"] == "True" for one in seen.status.get("conditions") or []):
        break
Gadget = new_class("Gadget", f"{group}/v1", asyncio=False)
gadget = Gadget({"metadata": {"name": "g", "namespace": NS}, "spec": {"size": 3, "unknown": 1}})
gadget.create()
assert gadget.raw["spec"] == {"size": 3}, gadget.raw
refused(422, "Invalid", lambda: gadget.patch({"spec": {"size": 10}}))
gadget.patch({"status": {"size": 3}, "spec": {"size": 4}}, subresource="status")
assert (gadget.spec.size, gadget.status.size, gadget.metadata.generation) == (3, 3, 1), gadget.raw
assert [one.name for one in api.get(Gadget)] == ["g"]
gadget.delete()
gadget.wait("delete", timeout=30)
definition.delete()
definition.wait("delete", timeout=30)

namespace.delete()
print("all done")
