"""The Python client from PyPI against a cluster: create, watch, patch, exec, logs, custom objects, delete."""

from kubernetes import client, config, watch
from kubernetes.client.rest import ApiException
from kubernetes.stream import stream

config.load_kube_config()
core, apps = client.CoreV1Api(), client.AppsV1Api()
NS = "python"

core.create_namespace({"metadata": {"name": NS}})
for event in watch.Watch().stream(core.list_namespaced_service_account, NS, timeout_seconds=60):
    if event["object"].metadata.name == "default":
        break

labels = {"app": "web"}
apps.create_namespaced_deployment(NS, {
    "metadata": {"name": "web"},
    "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": {
        "metadata": {"labels": labels},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [
            {"name": "c", "image": "busybox:1.35", "command": ["sh", "-c", "echo hello; sleep 1000"]}]}}},
})
w = watch.Watch()
for event in w.stream(apps.list_namespaced_deployment, NS, timeout_seconds=90):
    if (event["object"].status.available_replicas or 0) == 2:
        w.stop()

pods = core.list_namespaced_pod(NS, label_selector="app=web").items
assert len(pods) == 2, pods
name = pods[0].metadata.name
assert core.read_namespaced_pod_log(name, NS) == "hello\n"
said = stream(core.connect_get_namespaced_pod_exec, name, NS, command=["echo", "there"],
              stderr=True, stdin=False, stdout=True, tty=False)
assert said == "there\n", said

patched = apps.patch_namespaced_deployment("web", NS, {"metadata": {"labels": {"a": "b"}}})
assert patched.metadata.labels["a"] == "b"
apps.patch_namespaced_deployment_scale("web", NS, {"spec": {"replicas": 1}})
assert apps.read_namespaced_deployment("web", NS).spec.replicas == 1

page = core.list_namespaced_pod(NS, limit=1)
assert len(page.items) == 1

try:
    core.create_namespaced_pod(NS, {"metadata": {"name": "Bad Name"}, "spec": {"containers": []}})
    raise SystemExit("a bad pod was accepted")
except ApiException as error:
    assert error.status == 422, error

custom = client.CustomObjectsApi()
client.ApiextensionsV1Api().create_custom_resource_definition({
    "metadata": {"name": "gadgets.example.org"},
    "spec": {"group": "example.org", "scope": "Namespaced", "names": {"plural": "gadgets", "kind": "Gadget"},
             "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {
                 "type": "object", "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}}}}}]},
})
for event in watch.Watch().stream(client.ApiextensionsV1Api().list_custom_resource_definition, timeout_seconds=60):
    conditions = event["object"].status and event["object"].status.conditions or []
    if any(c.type == "Established" and c.status == "True" for c in conditions):
        break
custom.create_namespaced_custom_object("example.org", "v1", NS, "gadgets", {
    "apiVersion": "example.org/v1", "kind": "Gadget", "metadata": {"name": "g"}, "spec": {"size": 3, "unknown": 1}})
gadget = custom.get_namespaced_custom_object("example.org", "v1", NS, "gadgets", "g")
assert gadget["spec"] == {"size": 3}, gadget

client.ApiextensionsV1Api().delete_custom_resource_definition("gadgets.example.org")
core.delete_namespace(NS)
print("all done")
