// The client of JavaScript from npm: create, get, pages, selectors, patches, watch and informer, custom
// objects, refusals, delete.

import assert from "node:assert/strict";
import * as k8s from "@kubernetes/client-node";

const namespace = process.argv[2];
const config = new k8s.KubeConfig();
config.loadFromDefault();
const core = config.makeApiClient(k8s.CoreV1Api);
const apps = config.makeApiClient(k8s.AppsV1Api);
const custom = config.makeApiClient(k8s.CustomObjectsApi);
const definitions = config.makeApiClient(k8s.ApiextensionsV1Api);
const objects = k8s.KubernetesObjectApi.makeApiClient(config);

const configMap = (name, labels, data) => ({
  apiVersion: "v1",
  kind: "ConfigMap",
  metadata: { name, namespace, labels },
  data,
});
const sent = (strategy) => k8s.setHeaderOptions("Content-Type", strategy);

// That the server refuses, as the client's own error.
async function refused(code, reason, act) {
  await assert.rejects(act, (error) => {
    assert(error instanceof k8s.ApiException, String(error));
    const status = typeof error.body === "string" ? JSON.parse(error.body) : error.body;
    assert.deepEqual([error.code, status.reason], [code, reason]);
    return true;
  });
}

// Watches until an event fits; all that came.
function watched(path, query, holds) {
  const events = [];
  return new Promise((resolve, reject) => {
    let end;
    const done = (error) => (error && error.name !== "AbortError" ? reject(error) : resolve(events));
    const heard = (type, object) => {
      events.push({ type, object });
      if (holds(type, object)) end.then((controller) => controller.abort());
    };
    end = new k8s.Watch(config).watch(path, query, heard, done);
    end.catch(reject);
  });
}

const version = await config.makeApiClient(k8s.VersionApi).getCode();
assert.match(version.minor, /^36/);
await core.createNamespace({ body: { metadata: { name: namespace } } });

// Pages and selectors.
for (let number = 0; number < 7; number++) {
  await core.createNamespacedConfigMap({
    namespace,
    body: configMap(`page-${number}`, { parity: number % 2 ? "odd" : "even" }),
  });
}
const names = [];
let page = { metadata: {} };
do {
  page = await core.listNamespacedConfigMap({
    namespace,
    labelSelector: "parity",
    limit: 3,
    _continue: page.metadata._continue,
  });
  assert(page.items.length <= 3);
  names.push(...page.items.map((one) => one.metadata.name));
} while (page.metadata._continue);
assert.deepEqual(
  names,
  [0, 1, 2, 3, 4, 5, 6].map((number) => `page-${number}`),
);
const odd = await core.listNamespacedConfigMap({ namespace, labelSelector: "parity in (odd),parity!=even" });
assert.equal(odd.items.length, 3);
const third = await core.listNamespacedConfigMap({ namespace, fieldSelector: "metadata.name=page-3" });
assert.deepEqual(
  third.items.map((one) => one.metadata.name),
  ["page-3"],
);

// A life, and the watch that tells it.
const one = { name: "one", namespace };
const made = await core.createNamespacedConfigMap({ namespace, body: configMap("one", { told: "yes" }, { a: "1" }) });
const since = made.metadata.resourceVersion;
await refused(409, "AlreadyExists", () => core.createNamespacedConfigMap({ namespace, body: configMap("one") }));
const merged = await core.patchNamespacedConfigMap(
  { ...one, body: { data: { a: null, b: "2" } } },
  sent(k8s.PatchStrategy.MergePatch),
);
assert.deepEqual(merged.data, { b: "2" });
const json = [
  { op: "test", path: "/data/b", value: "2" },
  { op: "add", path: "/data/c", value: "3" },
];
const patched = await core.patchNamespacedConfigMap({ ...one, body: json }, sent(k8s.PatchStrategy.JsonPatch));
assert.deepEqual(patched.data, { b: "2", c: "3" });
const stale = { ...made, data: { a: "late" } };
await refused(409, "Conflict", () => core.replaceNamespacedConfigMap({ ...one, body: stale }));
const replaced = await core.replaceNamespacedConfigMap({ ...one, body: { ...patched, data: { a: "now" } } });
assert.deepEqual(replaced.data, { a: "now" });

// Applied on the server, by two who differ.
const apply = (fieldManager, force, a) =>
  core.patchNamespacedConfigMap(
    { ...one, fieldManager, force, body: configMap("one", undefined, { a }) },
    sent(k8s.PatchStrategy.ServerSideApply),
  );
await apply("first", true, "first");
await refused(409, "Conflict", () => apply("second", false, "second"));
const applied = await apply("second", true, "second");
assert.equal(applied.data.a, "second");
assert.deepEqual(
  applied.metadata.managedFields.filter((entry) => entry.operation === "Apply").map((entry) => entry.manager),
  ["second"],
);

await core.deleteNamespacedConfigMap(one);
await refused(404, "NotFound", () => core.readNamespacedConfigMap(one));
const path = `/api/v1/namespaces/${namespace}/configmaps`;
const told = await watched(path, { resourceVersion: since, labelSelector: "told=yes" }, (type) => type === "DELETED");
assert.deepEqual(
  told.map((event) => event.type),
  ["MODIFIED", "MODIFIED", "MODIFIED", "MODIFIED", "MODIFIED", "DELETED"],
);

// Workloads: strategic merge, scale, status.
const labels = { app: "web" };
const template = { metadata: { labels }, spec: { containers: [{ name: "c", image: "nginx" }] } };
const web = { name: "web", namespace };
await apps.createNamespacedDeployment({
  namespace,
  body: { metadata: { name: "web" }, spec: { replicas: 0, selector: { matchLabels: labels }, template } },
});
const second = { spec: { template: { spec: { containers: [{ name: "d", image: "busybox" }] } } } };
const both = await apps.patchNamespacedDeployment(
  { ...web, body: second },
  sent(k8s.PatchStrategy.StrategicMergePatch),
);
assert.deepEqual(
  both.spec.template.spec.containers.map((container) => container.name),
  ["d", "c"],
);
const scale = await apps.readNamespacedDeploymentScale(web);
scale.spec.replicas = 2;
assert.equal((await apps.replaceNamespacedDeploymentScale({ ...web, body: scale })).spec.replicas, 2);
const status = await apps.patchNamespacedDeploymentStatus(
  { ...web, body: { status: { observedGeneration: 3 } } },
  sent(k8s.PatchStrategy.MergePatch),
);
assert.equal(status.status.observedGeneration, 3);
const other = { spec: { selector: { matchLabels: { app: "other" } } } };
await refused(422, "Invalid", () =>
  apps.patchNamespacedDeployment({ ...web, body: other }, sent(k8s.PatchStrategy.MergePatch)),
);

// A kind that the server learns on the way, by the client that finds kinds by discovery.
const group = `${namespace}.example.com`;
const name = `gadgets.${group}`;
const schema = {
  openAPIV3Schema: {
    type: "object",
    properties: { spec: { type: "object", properties: { size: { type: "integer", maximum: 9 } } } },
  },
};
const spec = {
  group,
  scope: "Namespaced",
  names: { plural: "gadgets", singular: "gadget", kind: "Gadget" },
  versions: [{ name: "v1", served: true, storage: true, schema }],
};
await objects.create({
  apiVersion: "apiextensions.k8s.io/v1",
  kind: "CustomResourceDefinition",
  metadata: { name },
  spec,
});
await watched(
  "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
  { resourceVersion: "0", fieldSelector: `metadata.name=${name}` },
  (_, object) =>
    (object.status.conditions ?? []).some(
      (condition) => condition.type === "Established" && condition.status === "True",
    ),
);
const gadgets = { group, version: "v1", namespace, plural: "gadgets" };
const gadget = await custom.createNamespacedCustomObject({
  ...gadgets,
  body: { apiVersion: `${group}/v1`, kind: "Gadget", metadata: { name: "g" }, spec: { size: 3, unknown: 1 } },
});
assert.deepEqual(gadget.spec, { size: 3 });
await refused(422, "Invalid", () =>
  custom.replaceNamespacedCustomObject({ ...gadgets, name: "g", body: { ...gadget, spec: { size: 10 } } }),
);

// An informer's copy follows it.
const informer = k8s.makeInformer(config, `/apis/${group}/v1/namespaces/${namespace}/gadgets`, () =>
  custom.listNamespacedCustomObject(gadgets),
);
const heard = (event) => new Promise((resolve) => informer.on(event, resolve));
const [added, updated, removed] = ["add", "update", "delete"].map(heard);
await informer.start();
assert.equal((await added).spec.size, 3);
await custom.replaceNamespacedCustomObject({ ...gadgets, name: "g", body: { ...gadget, spec: { size: 4 } } });
assert.equal((await updated).spec.size, 4);
assert.equal(informer.get("g", namespace).spec.size, 4);
await custom.deleteNamespacedCustomObject({ ...gadgets, name: "g" });
assert.equal((await removed).metadata.name, "g");
assert.equal(informer.list().length, 0);
await informer.stop();

await definitions.deleteCustomResourceDefinition({ name });
await core.deleteNamespace({ name: namespace });
console.log("all done");
