//! The table itself; the module above says what a row means.

use super::{ALL_VERBS, Kind, Subresource};

const CREATE: &[&str] = &["create"];
const GET: &[&str] = &["get"];
const UPDATE: &[&str] = &["update"];
const READ_WRITE: &[&str] = &["get", "patch", "update"];
const STREAM: &[&str] = &["create", "get"];
const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];

const STATUS: Subresource = own("status", READ_WRITE);
const SCALE: Subresource = sub("scale", READ_WRITE, "autoscaling", "Scale");

const fn row(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    namespaced: bool,
) -> Kind {
    Kind {
        group,
        versions: &["v1"],
        storage: (group, "v1"),
        kind,
        plural,
        singular,
        short_names: &[],
        categories: &[],
        namespaced,
        verbs: ALL_VERBS,
        subresources: &[],
        selectable: &[],
        stored_at: plural,
    }
}

const fn namespaced(group: &'static str, kind: &'static str, plural: &'static str, singular: &'static str) -> Kind {
    row(group, kind, plural, singular, true)
}

const fn cluster(group: &'static str, kind: &'static str, plural: &'static str, singular: &'static str) -> Kind {
    row(group, kind, plural, singular, false)
}

/// A subresource whose body is the parent.
const fn own(name: &'static str, verbs: &'static [&'static str]) -> Subresource {
    Subresource { name, verbs, body: None }
}

/// A subresource with a body of its own, at `v1`.
const fn sub(
    name: &'static str,
    verbs: &'static [&'static str],
    group: &'static str,
    kind: &'static str,
) -> Subresource {
    Subresource { name, verbs, body: Some((group, "v1", kind)) }
}

impl Kind {
    const fn versions(mut self, versions: &'static [&'static str]) -> Self {
        self.versions = versions;
        self
    }
    const fn stored_as(mut self, group: &'static str, version: &'static str) -> Self {
        self.storage = (group, version);
        self
    }
    const fn stored_at(mut self, path: &'static str) -> Self {
        self.stored_at = path;
        self
    }
    const fn verbs(mut self, verbs: &'static [&'static str]) -> Self {
        self.verbs = verbs;
        self
    }
    const fn short(mut self, names: &'static [&'static str]) -> Self {
        self.short_names = names;
        self
    }
    const fn categories(mut self, categories: &'static [&'static str]) -> Self {
        self.categories = categories;
        self
    }
    const fn selectable(mut self, fields: &'static [&'static str]) -> Self {
        self.selectable = fields;
        self
    }
    const fn subresources(mut self, subresources: &'static [Subresource]) -> Self {
        self.subresources = subresources;
        self
    }
}

/// All built-in kinds: core first, then groups in the order of `/apis`, each sorted by plural.
pub static KINDS: &[Kind] = &[
    // core
    namespaced("", "Binding", "bindings", "binding").verbs(CREATE),
    cluster("", "ComponentStatus", "componentstatuses", "componentstatus").verbs(&["get", "list"]).short(&["cs"]),
    namespaced("", "ConfigMap", "configmaps", "configmap").short(&["cm"]),
    namespaced("", "Endpoints", "endpoints", "endpoints").stored_at("services/endpoints").short(&["ep"]),
    namespaced("", "Event", "events", "event").short(&["ev"]).selectable(&[
        "involvedObject.apiVersion",
        "involvedObject.fieldPath",
        "involvedObject.kind",
        "involvedObject.name",
        "involvedObject.namespace",
        "involvedObject.resourceVersion",
        "involvedObject.uid",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ]),
    namespaced("", "LimitRange", "limitranges", "limitrange").short(&["limits"]),
    cluster("", "Namespace", "namespaces", "namespace")
        .verbs(&["create", "delete", "get", "list", "patch", "update", "watch"])
        .short(&["ns"])
        .selectable(&["status.phase"])
        .subresources(&[own("finalize", UPDATE), STATUS]),
    cluster("", "Node", "nodes", "node")
        .stored_at("minions")
        .short(&["no"])
        .selectable(&["spec.unschedulable"])
        .subresources(&[sub("proxy", PROXY, "", "NodeProxyOptions"), STATUS]),
    namespaced("", "PersistentVolumeClaim", "persistentvolumeclaims", "persistentvolumeclaim")
        .short(&["pvc"])
        .subresources(&[STATUS]),
    cluster("", "PersistentVolume", "persistentvolumes", "persistentvolume").short(&["pv"]).subresources(&[STATUS]),
    namespaced("", "Pod", "pods", "pod")
        .short(&["po"])
        .categories(&["all"])
        .selectable(&[
            "spec.hostNetwork",
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "status.nominatedNodeName",
            "status.phase",
            "status.podIP",
            "status.podIPs",
        ])
        .subresources(&[
            sub("attach", STREAM, "", "PodAttachOptions"),
            sub("binding", CREATE, "", "Binding"),
            own("ephemeralcontainers", READ_WRITE),
            sub("eviction", CREATE, "policy", "Eviction"),
            sub("exec", STREAM, "", "PodExecOptions"),
            own("log", GET),
            sub("portforward", STREAM, "", "PodPortForwardOptions"),
            sub("proxy", PROXY, "", "PodProxyOptions"),
            own("resize", READ_WRITE),
            STATUS,
        ]),
    namespaced("", "PodTemplate", "podtemplates", "podtemplate"),
    namespaced("", "ReplicationController", "replicationcontrollers", "replicationcontroller")
        .stored_at("controllers")
        .short(&["rc"])
        .categories(&["all"])
        .selectable(&["status.replicas"])
        .subresources(&[SCALE, STATUS]),
    namespaced("", "ResourceQuota", "resourcequotas", "resourcequota").short(&["quota"]).subresources(&[STATUS]),
    namespaced("", "Secret", "secrets", "secret").selectable(&["type"]),
    namespaced("", "ServiceAccount", "serviceaccounts", "serviceaccount").short(&["sa"]).subresources(&[sub(
        "token",
        CREATE,
        "authentication.k8s.io",
        "TokenRequest",
    )]),
    namespaced("", "Service", "services", "service")
        .stored_at("services/specs")
        .short(&["svc"])
        .categories(&["all"])
        .selectable(&["spec.clusterIP", "spec.type"])
        .subresources(&[sub("proxy", PROXY, "", "ServiceProxyOptions"), STATUS]),
    // apiregistration.k8s.io
    cluster("apiregistration.k8s.io", "APIService", "apiservices", "apiservice")
        .stored_at("apiregistration.k8s.io/apiservices")
        .categories(&["api-extensions"])
        .subresources(&[STATUS]),
    // apps
    namespaced("apps", "ControllerRevision", "controllerrevisions", "controllerrevision"),
    namespaced("apps", "DaemonSet", "daemonsets", "daemonset")
        .short(&["ds"])
        .categories(&["all"])
        .subresources(&[STATUS]),
    namespaced("apps", "Deployment", "deployments", "deployment")
        .short(&["deploy"])
        .categories(&["all"])
        .subresources(&[SCALE, STATUS]),
    namespaced("apps", "ReplicaSet", "replicasets", "replicaset")
        .short(&["rs"])
        .categories(&["all"])
        .subresources(&[SCALE, STATUS]),
    namespaced("apps", "StatefulSet", "statefulsets", "statefulset")
        .short(&["sts"])
        .categories(&["all"])
        .subresources(&[SCALE, STATUS]),
    // events.k8s.io
    namespaced("events.k8s.io", "Event", "events", "event").stored_as("", "v1").short(&["ev"]).selectable(&[
        "reason",
        "regarding.apiVersion",
        "regarding.fieldPath",
        "regarding.kind",
        "regarding.name",
        "regarding.namespace",
        "regarding.resourceVersion",
        "regarding.uid",
        "reportingController",
        "type",
    ]),
    // authentication.k8s.io
    cluster("authentication.k8s.io", "SelfSubjectReview", "selfsubjectreviews", "selfsubjectreview").verbs(CREATE),
    cluster("authentication.k8s.io", "TokenReview", "tokenreviews", "tokenreview").verbs(CREATE),
    // authorization.k8s.io
    namespaced(
        "authorization.k8s.io",
        "LocalSubjectAccessReview",
        "localsubjectaccessreviews",
        "localsubjectaccessreview",
    )
    .verbs(CREATE),
    cluster("authorization.k8s.io", "SelfSubjectAccessReview", "selfsubjectaccessreviews", "selfsubjectaccessreview")
        .verbs(CREATE),
    cluster("authorization.k8s.io", "SelfSubjectRulesReview", "selfsubjectrulesreviews", "selfsubjectrulesreview")
        .verbs(CREATE),
    cluster("authorization.k8s.io", "SubjectAccessReview", "subjectaccessreviews", "subjectaccessreview").verbs(CREATE),
    // autoscaling
    namespaced("autoscaling", "HorizontalPodAutoscaler", "horizontalpodautoscalers", "horizontalpodautoscaler")
        .versions(&["v2", "v1"])
        .stored_as("autoscaling", "v2")
        .short(&["hpa"])
        .categories(&["all"])
        .subresources(&[STATUS]),
    // batch
    namespaced("batch", "CronJob", "cronjobs", "cronjob").short(&["cj"]).categories(&["all"]).subresources(&[STATUS]),
    namespaced("batch", "Job", "jobs", "job")
        .categories(&["all"])
        .selectable(&["status.successful"])
        .subresources(&[STATUS]),
    // certificates.k8s.io
    cluster(
        "certificates.k8s.io",
        "CertificateSigningRequest",
        "certificatesigningrequests",
        "certificatesigningrequest",
    )
    .short(&["csr"])
    .selectable(&["spec.signerName"])
    .subresources(&[own("approval", READ_WRITE), STATUS]),
    // networking.k8s.io
    cluster("networking.k8s.io", "IngressClass", "ingressclasses", "ingressclass"),
    namespaced("networking.k8s.io", "Ingress", "ingresses", "ingress")
        .stored_at("ingress")
        .short(&["ing"])
        .subresources(&[STATUS]),
    cluster("networking.k8s.io", "IPAddress", "ipaddresses", "ipaddress").short(&["ip"]),
    namespaced("networking.k8s.io", "NetworkPolicy", "networkpolicies", "networkpolicy").short(&["netpol"]),
    cluster("networking.k8s.io", "ServiceCIDR", "servicecidrs", "servicecidr").subresources(&[STATUS]),
    // policy
    namespaced("policy", "PodDisruptionBudget", "poddisruptionbudgets", "poddisruptionbudget")
        .short(&["pdb"])
        .subresources(&[STATUS]),
    // rbac.authorization.k8s.io
    cluster("rbac.authorization.k8s.io", "ClusterRoleBinding", "clusterrolebindings", "clusterrolebinding"),
    cluster("rbac.authorization.k8s.io", "ClusterRole", "clusterroles", "clusterrole"),
    namespaced("rbac.authorization.k8s.io", "RoleBinding", "rolebindings", "rolebinding"),
    namespaced("rbac.authorization.k8s.io", "Role", "roles", "role"),
    // storage.k8s.io
    cluster("storage.k8s.io", "CSIDriver", "csidrivers", "csidriver"),
    cluster("storage.k8s.io", "CSINode", "csinodes", "csinode"),
    namespaced("storage.k8s.io", "CSIStorageCapacity", "csistoragecapacities", "csistoragecapacity"),
    cluster("storage.k8s.io", "StorageClass", "storageclasses", "storageclass").short(&["sc"]),
    cluster("storage.k8s.io", "VolumeAttachment", "volumeattachments", "volumeattachment").subresources(&[STATUS]),
    cluster("storage.k8s.io", "VolumeAttributesClass", "volumeattributesclasses", "volumeattributesclass")
        .short(&["vac"]),
    // admissionregistration.k8s.io
    cluster(
        "admissionregistration.k8s.io",
        "MutatingAdmissionPolicy",
        "mutatingadmissionpolicies",
        "mutatingadmissionpolicy",
    )
    .categories(&["api-extensions"]),
    cluster(
        "admissionregistration.k8s.io",
        "MutatingAdmissionPolicyBinding",
        "mutatingadmissionpolicybindings",
        "mutatingadmissionpolicybinding",
    )
    .categories(&["api-extensions"]),
    cluster(
        "admissionregistration.k8s.io",
        "MutatingWebhookConfiguration",
        "mutatingwebhookconfigurations",
        "mutatingwebhookconfiguration",
    )
    .categories(&["api-extensions"]),
    cluster(
        "admissionregistration.k8s.io",
        "ValidatingAdmissionPolicy",
        "validatingadmissionpolicies",
        "validatingadmissionpolicy",
    )
    .categories(&["api-extensions"])
    .subresources(&[STATUS]),
    cluster(
        "admissionregistration.k8s.io",
        "ValidatingAdmissionPolicyBinding",
        "validatingadmissionpolicybindings",
        "validatingadmissionpolicybinding",
    )
    .categories(&["api-extensions"]),
    cluster(
        "admissionregistration.k8s.io",
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
        "validatingwebhookconfiguration",
    )
    .categories(&["api-extensions"]),
    // apiextensions.k8s.io
    cluster(
        "apiextensions.k8s.io",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        "customresourcedefinition",
    )
    .stored_at("apiextensions.k8s.io/customresourcedefinitions")
    .short(&["crd", "crds"])
    .categories(&["api-extensions"])
    .subresources(&[STATUS]),
    // scheduling.k8s.io
    cluster("scheduling.k8s.io", "PriorityClass", "priorityclasses", "priorityclass").short(&["pc"]),
    // coordination.k8s.io
    namespaced("coordination.k8s.io", "Lease", "leases", "lease"),
    // node.k8s.io
    cluster("node.k8s.io", "RuntimeClass", "runtimeclasses", "runtimeclass"),
    // discovery.k8s.io
    namespaced("discovery.k8s.io", "EndpointSlice", "endpointslices", "endpointslice"),
    // resource.k8s.io
    cluster("resource.k8s.io", "DeviceClass", "deviceclasses", "deviceclass"),
    namespaced("resource.k8s.io", "ResourceClaim", "resourceclaims", "resourceclaim").subresources(&[STATUS]),
    namespaced("resource.k8s.io", "ResourceClaimTemplate", "resourceclaimtemplates", "resourceclaimtemplate"),
    cluster("resource.k8s.io", "ResourceSlice", "resourceslices", "resourceslice")
        .selectable(&["spec.driver", "spec.nodeName"]),
    // flowcontrol.apiserver.k8s.io
    cluster("flowcontrol.apiserver.k8s.io", "FlowSchema", "flowschemas", "flowschema").subresources(&[STATUS]),
    cluster(
        "flowcontrol.apiserver.k8s.io",
        "PriorityLevelConfiguration",
        "prioritylevelconfigurations",
        "prioritylevelconfiguration",
    )
    .subresources(&[STATUS]),
];
