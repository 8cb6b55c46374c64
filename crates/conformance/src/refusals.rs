//! Requests that must be refused, and in which words: one uniform table.
//!
//! `NS` in a path or a body is the namespace of the run. Codes, reasons, causes and messages are upstream's; where
//! upstream quotes a parser of its own, only the beginning counts.

use crate::Credentials;

/// How a message is compared.
#[derive(Clone, Copy, Debug)]
pub enum Words {
    /// Exactly so.
    Are(&'static str),
    /// It begins so.
    Begin(&'static str),
}

/// A request and its refusal.
#[derive(Clone, Copy, Debug)]
pub struct Refusal {
    /// What is wrong.
    pub name: &'static str,
    /// Who asks.
    pub who: Credentials,
    /// HTTP method.
    pub method: &'static str,
    /// Path and query.
    pub path: &'static str,
    /// Content type, empty for none.
    pub media: &'static str,
    /// Accepted types, empty for none.
    pub accept: &'static str,
    /// Body.
    pub body: &'static str,
    /// HTTP code.
    pub code: u16,
    /// `reason` of the Status.
    pub reason: &'static str,
    /// `message` of the Status.
    pub message: Words,
    /// (reason, field) of the causes, sorted.
    pub causes: &'static [(&'static str, &'static str)],
}

const POST: Refusal = Refusal {
    name: "",
    who: Credentials::Own,
    method: "POST",
    path: "/api/v1/namespaces/NS/configmaps",
    media: "application/json",
    accept: "application/json",
    body: "",
    code: 400,
    reason: "BadRequest",
    message: Words::Begin(""),
    causes: &[],
};
const GET: Refusal = Refusal { method: "GET", media: "", ..POST };
const PUT: Refusal = Refusal { method: "PUT", path: "/api/v1/namespaces/NS/configmaps/kept", ..POST };
const PATCH: Refusal = Refusal { method: "PATCH", media: "application/merge-patch+json", ..PUT };
const INVALID: Refusal = Refusal { code: 422, reason: "Invalid", ..POST };

/// All of them. An object `kept` with `data.a` "b" is there before.
pub const REFUSALS: &[Refusal] = &[
    Refusal {
        name: "json_cut_short",
        body: r#"{"apiVersion":"v1","kind":"ConfigMap","#,
        message: Words::Begin(
            "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: ",
        ),
        ..POST
    },
    Refusal {
        name: "json_that_is_no_object",
        body: "[1]",
        message: Words::Begin(
            "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: ",
        ),
        ..POST
    },
    Refusal {
        name: "no_body",
        message: Words::Begin("the object provided is unrecognized (must be of type ConfigMap): "),
        ..POST
    },
    Refusal {
        name: "broken_yaml",
        media: "application/yaml",
        body: "kind: [",
        message: Words::Begin("the object provided is unrecognized (must be of type ConfigMap): "),
        ..POST
    },
    Refusal {
        name: "protobuf_without_its_mark",
        media: "application/vnd.kubernetes.protobuf",
        body: "nothing of the kind",
        message: Words::Begin("the object provided is unrecognized (must be of type ConfigMap): "),
        ..POST
    },
    Refusal {
        name: "protobuf_cut_short",
        media: "application/vnd.kubernetes.protobuf",
        body: "k8s\0\x0a\x7f",
        message: Words::Begin(""),
        ..POST
    },
    Refusal {
        name: "wrong_type_for_a_map",
        body: r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"data":"a"}"#,
        message: Words::Are(
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal string into Go struct field ConfigMap.data of type map[string]string",
        ),
        ..POST
    },
    Refusal {
        name: "wrong_type_for_a_number",
        path: "/apis/apps/v1/namespaces/NS/deployments",
        body: r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"x"},"spec":{"replicas":"2"}}"#,
        message: Words::Are(
            "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        ..POST
    },
    Refusal {
        name: "unknown_field_strictly",
        path: "/api/v1/namespaces/NS/configmaps?fieldValidation=Strict",
        body: r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"dota":{}}"#,
        message: Words::Are(
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"dota\"",
        ),
        ..POST
    },
    Refusal {
        name: "several_unknown_and_repeated_fields_strictly",
        path: "/api/v1/namespaces/NS/configmaps?fieldValidation=Strict",
        body: r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","nome":1},"data":{"a":"b","a":"c"},"dota":{}}"#,
        message: Words::Are(
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"metadata.nome\", duplicate field \"data.a\", unknown field \"dota\"",
        ),
        ..POST
    },
    Refusal {
        name: "another_kind",
        body: r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"x"}}"#,
        message: Words::Begin("Secret in version \"v1\" cannot be handled as a ConfigMap: "),
        ..POST
    },
    Refusal {
        name: "a_name_in_capitals",
        body: r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"Not_A_Name"}}"#,
        message: Words::Begin(
            "ConfigMap \"Not_A_Name\" is invalid: metadata.name: Invalid value: \"Not_A_Name\": a lowercase RFC 1123 subdomain must consist of",
        ),
        causes: &[("FieldValueInvalid", "metadata.name")],
        ..INVALID
    },
    Refusal {
        name: "no_name",
        body: r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{}}"#,
        message: Words::Are(
            "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required",
        ),
        causes: &[("FieldValueRequired", "metadata.name")],
        ..INVALID
    },
    Refusal {
        name: "several_faults_at_once",
        path: "/api/v1/namespaces/NS/pods",
        body: r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x","labels":{"a b":"c"}},"spec":{"restartPolicy":"Sometimes","containers":[{"name":"A_","image":"i","ports":[{"containerPort":70000}]},{"name":"b"}]}}"#,
        message: Words::Begin("Pod \"x\" is invalid: ["),
        causes: &[
            ("FieldValueInvalid", "metadata.labels"),
            ("FieldValueInvalid", "spec.containers[0].name"),
            ("FieldValueInvalid", "spec.containers[0].ports[0].containerPort"),
            ("FieldValueNotSupported", "spec.restartPolicy"),
            ("FieldValueRequired", "spec.containers[1].image"),
        ],
        ..INVALID
    },
    Refusal {
        name: "a_binding_without_a_name",
        path: "/api/v1/namespaces/NS/pods/none/binding",
        body: r#"{"apiVersion":"v1","kind":"Binding","target":{"kind":"Node","name":"n"}}"#,
        message: Words::Are("name in URL does not match name in Binding object"),
        ..POST
    },
    Refusal {
        name: "a_volume_on_a_target_that_is_none",
        path: "/api/v1/persistentvolumes",
        body: r#"{"apiVersion":"v1","kind":"PersistentVolume","metadata":{"name":"x"},"spec":{"capacity":{"storage":"1Gi"},"accessModes":["ReadWriteOnce"],"iscsi":{"targetPortal":"192.0.2.1","iqn":"disk"}}}"#,
        message: Words::Are(
            "PersistentVolume \"x\" is invalid: spec.iscsi.iqn: Invalid value: \"disk\": must be valid format",
        ),
        causes: &[("FieldValueInvalid", "spec.iscsi.iqn")],
        ..INVALID
    },
    Refusal {
        name: "a_user_that_windows_does_not_know",
        path: "/api/v1/namespaces/NS/podtemplates",
        body: r#"{"apiVersion":"v1","kind":"PodTemplate","metadata":{"name":"x"},"template":{"spec":{"os":{"name":"windows"},"securityContext":{"runAsUser":1},"containers":[{"name":"a","image":"i"}]}}}"#,
        message: Words::Are(
            "PodTemplate \"x\" is invalid: template.spec.securityContext.runAsUser: Forbidden: cannot be set for a windows pod",
        ),
        causes: &[("FieldValueForbidden", "template.spec.securityContext.runAsUser")],
        ..INVALID
    },
    Refusal {
        name: "labels_to_match_without_a_selector",
        path: "/api/v1/namespaces/NS/podtemplates",
        body: r#"{"apiVersion":"v1","kind":"PodTemplate","metadata":{"name":"x"},"template":{"spec":{"containers":[{"name":"a","image":"i"}],"topologySpreadConstraints":[{"maxSkew":1,"topologyKey":"zone","whenUnsatisfiable":"DoNotSchedule","matchLabelKeys":["a"]}]}}}"#,
        message: Words::Are(
            "PodTemplate \"x\" is invalid: template.spec.topologySpreadConstraints[0].matchLabelKeys: Forbidden: must not be specified when labelSelector is not set",
        ),
        causes: &[("FieldValueForbidden", "template.spec.topologySpreadConstraints[0].matchLabelKeys")],
        ..INVALID
    },
    Refusal {
        name: "an_attachment_of_a_volume_without_a_driver",
        path: "/apis/storage.k8s.io/v1/volumeattachments",
        body: r#"{"apiVersion":"storage.k8s.io/v1","kind":"VolumeAttachment","metadata":{"name":"x"},"spec":{"attacher":"a.example.com","nodeName":"n","source":{"inlineVolumeSpec":{"accessModes":["ReadWriteOnce"],"nfs":{"server":"s","path":"/"}}}}}"#,
        message: Words::Are(
            "VolumeAttachment.storage.k8s.io \"x\" is invalid: spec.source.inlineVolumeSpec.csi: Required value: has to be specified in the context of inline volumes",
        ),
        causes: &[("FieldValueRequired", "spec.source.inlineVolumeSpec.csi")],
        ..INVALID
    },
    Refusal {
        name: "an_autoscaler_that_nothing_would_wake",
        path: "/apis/autoscaling/v2/namespaces/NS/horizontalpodautoscalers",
        body: r#"{"apiVersion":"autoscaling/v2","kind":"HorizontalPodAutoscaler","metadata":{"name":"x"},"spec":{"minReplicas":0,"maxReplicas":2,"scaleTargetRef":{"apiVersion":"apps/v1","kind":"Deployment","name":"d"}}}"#,
        message: Words::Begin(
            "HorizontalPodAutoscaler.autoscaling \"x\" is invalid: [spec.minReplicas: Invalid value: 0: ",
        ),
        causes: &[("FieldValueForbidden", "spec.metrics"), ("FieldValueInvalid", "spec.minReplicas")],
        ..INVALID
    },
    Refusal {
        name: "a_key_that_is_no_file_name",
        body: r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"data":{"a/b":"c"}}"#,
        message: Words::Begin("ConfigMap \"x\" is invalid: data[a/b]: Invalid value: \"a/b\": a valid config key must"),
        causes: &[("FieldValueInvalid", "data[a/b]")],
        ..INVALID
    },
    Refusal {
        name: "another_namespace",
        body: r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","namespace":"default"}}"#,
        message: Words::Are("the namespace of the provided object does not match the namespace sent on the request"),
        ..POST
    },
    Refusal {
        name: "a_namespace_that_is_not",
        path: "/api/v1/namespaces/nowhere-to-be-found/configmaps",
        body: r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}}"#,
        code: 404,
        reason: "NotFound",
        message: Words::Are("namespaces \"nowhere-to-be-found\" not found"),
        ..POST
    },
    Refusal {
        name: "an_object_that_is_there",
        body: r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"kept"}}"#,
        code: 409,
        reason: "AlreadyExists",
        message: Words::Are("configmaps \"kept\" already exists"),
        ..POST
    },
    Refusal {
        name: "another_name_than_the_path_s",
        body: r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"other"}}"#,
        message: Words::Are("the name of the object (other) does not match the name on the URL (kept)"),
        ..PUT
    },
    Refusal {
        name: "an_old_resource_version",
        body: r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"kept","resourceVersion":"1"}}"#,
        code: 409,
        reason: "Conflict",
        message: Words::Are(
            "Operation cannot be fulfilled on configmaps \"kept\": the object has been modified; please apply your changes to the latest version and try again",
        ),
        ..PUT
    },
    Refusal {
        name: "a_wrong_option",
        path: "/api/v1/namespaces/NS/configmaps?dryRun=Some",
        body: r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}}"#,
        message: Words::Begin("CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: "),
        causes: &[("FieldValueNotSupported", "dryRun")],
        ..INVALID
    },
    Refusal { name: "a_patch_that_is_no_json", body: "{", message: Words::Begin("error decoding patch: "), ..PATCH },
    Refusal {
        name: "a_patch_to_a_wrong_type",
        body: r#"{"data":["a"]}"#,
        code: 422,
        reason: "Invalid",
        message: Words::Begin(" \"\" is invalid: patch: Invalid value: \"{"),
        causes: &[("FieldValueInvalid", "patch")],
        ..PATCH
    },
    Refusal {
        name: "a_strategic_patch_to_a_wrong_type",
        media: "application/strategic-merge-patch+json",
        body: r#"{"data":"a"}"#,
        code: 422,
        reason: "Invalid",
        message: Words::Begin(
            " \"\" is invalid: patch: Invalid value: \"map[data:a]\": cannot restore map from string",
        ),
        causes: &[("FieldValueInvalid", "patch")],
        ..PATCH
    },
    Refusal {
        name: "a_json_patch_whose_test_fails",
        media: "application/json-patch+json",
        body: r#"[{"op":"test","path":"/data/a","value":"x"},{"op":"remove","path":"/data/a"}]"#,
        code: 422,
        reason: "Invalid",
        message: Words::Are("the server rejected our request due to an error in our request"),
        causes: &[],
        ..PATCH
    },
    Refusal {
        name: "an_apply_without_a_manager",
        media: "application/apply-patch+yaml",
        body: r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"kept"}}"#,
        code: 422,
        reason: "Invalid",
        message: Words::Are(
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ),
        causes: &[("FieldValueRequired", "fieldManager")],
        ..PATCH
    },
    Refusal {
        name: "a_patch_type_that_is_none",
        media: "application/json",
        body: "{}",
        code: 415,
        reason: "UnsupportedMediaType",
        message: Words::Are("415: Unsupported Media Type"),
        ..PATCH
    },
    Refusal {
        name: "a_body_type_that_is_none",
        media: "text/plain",
        body: "{}",
        code: 415,
        reason: "UnsupportedMediaType",
        message: Words::Begin("the body of the request was in an unknown format - accepted media types include: "),
        ..POST
    },
    Refusal {
        name: "an_answer_type_that_is_none",
        accept: "application/xml",
        code: 406,
        reason: "NotAcceptable",
        message: Words::Begin("406: Not Acceptable\n\nAvailable representations: application/json, application/yaml"),
        ..GET
    },
    Refusal {
        name: "an_unknown_resource",
        path: "/api/v1/namespaces/NS/configmops",
        code: 404,
        reason: "NotFound",
        message: Words::Are("the server could not find the requested resource"),
        ..GET
    },
    Refusal {
        name: "an_unknown_object",
        path: "/api/v1/namespaces/NS/configmaps/nope",
        code: 404,
        reason: "NotFound",
        message: Words::Are("configmaps \"nope\" not found"),
        ..GET
    },
    Refusal {
        name: "a_verb_that_is_not_for_objects",
        method: "POST",
        body: "{}",
        code: 405,
        reason: "MethodNotAllowed",
        message: Words::Are("the server does not allow this method on the requested resource"),
        ..PUT
    },
    Refusal {
        name: "a_verb_that_is_not_for_collections",
        method: "PUT",
        body: "{}",
        code: 405,
        reason: "MethodNotAllowed",
        message: Words::Are("the server does not allow this method on the requested resource"),
        ..POST
    },
    Refusal {
        name: "a_selector_that_is_none",
        path: "/api/v1/namespaces/NS/configmaps?labelSelector=a%20b%20c",
        message: Words::Begin("unable to parse requirement: "),
        ..GET
    },
    Refusal {
        name: "a_field_nobody_can_select_by",
        path: "/api/v1/namespaces/NS/configmaps?fieldSelector=data.a%3Db",
        message: Words::Are("\"data.a\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""),
        ..GET
    },
    Refusal {
        name: "a_continue_token_nobody_gave_out",
        path: "/api/v1/namespaces/NS/configmaps?limit=1&continue=nope",
        message: Words::Begin("invalid continue token: continue key is not valid: "),
        ..GET
    },
    Refusal {
        name: "a_wrong_token",
        who: Credentials::Wrong,
        code: 401,
        reason: "Unauthorized",
        message: Words::Are("Unauthorized"),
        ..GET
    },
    Refusal {
        name: "nobody",
        who: Credentials::None,
        path: "/api/v1/namespaces/default/configmaps",
        code: 403,
        reason: "Forbidden",
        message: Words::Are(
            "configmaps is forbidden: User \"system:anonymous\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"default\"",
        ),
        ..GET
    },
    Refusal {
        name: "nobody_at_a_path",
        who: Credentials::None,
        path: "/metrics",
        code: 403,
        reason: "Forbidden",
        message: Words::Are("forbidden: User \"system:anonymous\" cannot get path \"/metrics\""),
        ..GET
    },
];
