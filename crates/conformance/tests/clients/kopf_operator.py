"""An operator of kopf from PyPI with a kind of its own: it answers create, update and delete, holds objects by
its finalizer, serves its own webhooks, and is driven by the kr8s client."""

import asyncio
import json
import sys
import tempfile

import certificate
import kopf
import kr8s.asyncio
from kr8s.asyncio.objects import ConfigMap, CustomResourceDefinition, Namespace, new_class

NS = sys.argv[1]
GROUP = f"{NS}.example.com"
KIND = (GROUP, "v1", "greetings")
FINALIZER = "kopf.zalando.org/KopfFinalizerMarker"
Greeting = new_class("Greeting", f"{GROUP}/v1", asyncio=True)


# The operator.

async def publish(api, name, words):
    """Applies the words as a ConfigMap."""
    wanted = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"words": words}}
    async with api.call_api(
        "PATCH", namespace=NS, url=f"configmaps/{name}", params={"fieldManager": "greeter", "force": "true"},
        headers={"Content-Type": "application/apply-patch+yaml"}, content=json.dumps(wanted),
    ) as answer:
        return answer.json()["metadata"]["uid"]


@kopf.on.startup()
def started(settings, memo, **_):
    memo.folder = tempfile.TemporaryDirectory()
    made, key = certificate.made(memo.folder.name)
    settings.admission.server = kopf.WebhookServer(
        addr="127.0.0.1", host="127.0.0.1", cafile=made, certfile=made, pkeyfile=key)
    settings.admission.managed = GROUP


@kopf.on.mutate(*KIND, operation="CREATE")
def polite(spec, patch, **_):
    if "words" not in spec:
        patch.spec["words"] = "good day"


@kopf.on.validate(*KIND)
def decent(spec, **_):
    if spec.get("words") == "rude":
        raise kopf.AdmissionError("mind your words", code=418)


@kopf.on.create(*KIND)
async def created(body, spec, name, **_):
    kopf.info(body, reason="Greeted", message=spec["words"])
    return {"uid": await publish(await kr8s.asyncio.api(), name, spec["words"])}


@kopf.on.update(*KIND)
async def changed(name, old, new, retry, **_):
    if retry == 0:
        raise kopf.TemporaryError("the second try does it", delay=0)
    await publish(await kr8s.asyncio.api(), name, new["spec"]["words"])
    return {"old": old["spec"], "new": new["spec"]}


@kopf.on.delete(*KIND)
async def deleted(name, **_):
    await (await ConfigMap.get(name, namespace=NS)).delete()


# What drives it.

async def until(api, kind, holds, **selectors):
    """The first object that fits, by watch from what is there."""
    async for event, seen in api.watch(kind, since="0", **selectors):
        if holds(event, seen.raw):
            return seen


async def words(api, name):
    return (await ConfigMap.get(name, namespace=NS)).raw["data"]["words"]


async def dry_run(api, name, spec):
    body = {"apiVersion": f"{GROUP}/v1", "kind": "Greeting", "metadata": {"name": name}, "spec": spec}
    async with api.call_api("POST", version=f"{GROUP}/v1", namespace=NS, url="greetings", params={"dryRun": "All"},
                            content=json.dumps(body), raise_for_status=False) as answer:
        return answer.json()


def definition():
    loose = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"type": "object", "properties": {
        "spec": {"type": "object", "properties": {"words": {"type": "string"}}}, "status": loose}}
    return CustomResourceDefinition({"metadata": {"name": f"greetings.{GROUP}"}, "spec": {
        "group": GROUP, "scope": "Namespaced",
        "names": {"plural": "greetings", "singular": "greeting", "kind": "Greeting"},
        "versions": [{"name": "v1", "served": True, "storage": True, "subresources": {"status": {}},
                      "schema": {"openAPIV3Schema": schema}}]}})


async def served(api, kinds):
    """Until discovery tells the kind, which is a moment after all that a watch tells: kopf does not look again."""
    await kinds.create()
    while True:
        async with api.call_api("GET", version=f"{GROUP}/v1", url="", raise_for_status=False) as answer:
            if answer.status_code == 200 and answer.json()["resources"]:
                return


async def drive(api):
    for kind in ("mutatingwebhookconfigurations", "validatingwebhookconfigurations"):
        await until(api, kind, lambda _, one: one.get("webhooks"), field_selector={"metadata.name": GROUP})
    # A server hears of webhooks a moment after they are written, which no watch tells.
    while (await dry_run(api, "probe", {"words": "rude"})).get("code") != 418:
        pass
    while (await dry_run(api, "probe", {}))["spec"].get("words") != "good day":
        pass

    hello = await Greeting({"metadata": {"name": "hello", "namespace": NS}, "spec": {}})
    await hello.create()
    mine = {"namespace": NS, "field_selector": {"metadata.name": "hello"}}
    kind = f"greetings.{GROUP}"
    seen = await until(api, kind, lambda _, one: "created" in one.get("status", {}), **mine)
    assert seen.raw["metadata"]["finalizers"] == [FINALIZER], seen.raw
    assert await words(api, "hello") == "good day"
    assert (await ConfigMap.get("hello", namespace=NS)).metadata.uid == seen.raw["status"]["created"]["uid"]
    event = await until(api, "events", lambda _, one: one["reason"] == "Greeted", namespace=NS)
    assert event.raw["involvedObject"]["name"] == "hello", event.raw

    await seen.patch({"spec": {"words": "good night"}})
    seen = await until(api, kind, lambda _, one: "changed" in one["status"], **mine)
    assert seen.raw["status"]["changed"] == {"old": {"words": "good day"}, "new": {"words": "good night"}}, seen.raw
    assert await words(api, "hello") == "good night"
    try:
        await seen.patch({"spec": {"words": "rude"}})
    except kr8s.ServerError as error:
        assert error.response.status_code == 418 and "mind your words" in error.status["message"], error.status
    else:
        raise SystemExit("rude words were taken")

    before = seen.raw["metadata"]["resourceVersion"]
    await seen.delete()
    told = []
    async for event, one in api.watch(kind, since=before, **mine):
        told.append((event, one.raw["metadata"].get("finalizers", [])))
        assert "deletionTimestamp" in one.raw["metadata"], one.raw
        if event == "DELETED":
            break
    # What is told of the end is the object as it was stored last.
    assert told[0] == ("MODIFIED", [FINALIZER]) and told[-1] == ("DELETED", [FINALIZER]), told
    assert not [one async for one in api.get("configmaps", "hello", namespace=NS)]


async def main():
    api = await kr8s.asyncio.api(namespace=NS)
    namespace, kinds = await Namespace({"metadata": {"name": NS}}), await definition()
    await namespace.create()
    await asyncio.wait_for(served(api, kinds), 30)
    ready, stop = asyncio.Event(), asyncio.Event()
    operator = asyncio.create_task(kopf.operator(namespaces=[NS], standalone=True, ready_flag=ready, stop_flag=stop))
    try:
        await ready.wait()
        async with asyncio.timeout(30):
            await drive(api)
    finally:
        stop.set()
        await operator
        await kinds.delete()
        for one in ("mutating", "validating"):
            async with api.call_api("DELETE", version="admissionregistration.k8s.io/v1",
                                    url=f"{one}webhookconfigurations/{GROUP}", raise_for_status=False):
                pass
        await namespace.delete()


asyncio.run(main())
print("all done")
