use skiff_meta::world::RealWorld;

use super::*;
use crate::extender::Settings;

const HEAD: &str = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";

fn read(body: &str) -> Result<Config, String> {
    Config::read(&format!("{HEAD}{body}"), &RealWorld::shared()).map_err(|error| error.to_string())
}

fn shown(profile: &Profile) -> String {
    let slots = profile.slots.iter().filter(|slot| slot.filter || slot.weight > 0);
    slots
        .map(|slot| format!("{}:{}:{}", slot.plugin.name(), u8::from(slot.filter), slot.weight))
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn an_empty_file_is_the_default() {
    let config = read("").unwrap();
    assert_eq!(config.profiles.len(), 1);
    assert_eq!(shown(&config.profiles[0]), shown(&Profile::default()));
    assert_eq!((config.pauses, config.volume_timeout), (Pauses::default(), Duration::from_secs(600)));
}

#[test]
fn profiles_and_plugins() {
    let config = read(
        "percentageOfNodesToScore: 30
podInitialBackoffSeconds: 2
podMaxBackoffSeconds: 20
leaderElection: {leaderElect: false}
profiles:
- schedulerName: first
  plugins:
    multiPoint:
      enabled: [{name: ImageLocality, weight: 7}]
      disabled: [{name: InterPodAffinity}]
    score:
      enabled: [{name: TaintToleration, weight: 9}]
      disabled: [{name: NodeAffinity}]
    postFilter:
      disabled: [{name: DefaultPreemption}]
- schedulerName: second
  percentageOfNodesToScore: 100
  plugins:
    multiPoint:
      disabled: [{name: '*'}]
      enabled: [{name: NodeResourcesFit, weight: 2}, {name: NodeName}, {name: PrioritySort}, {name: DefaultBinder}]
  pluginConfig:
  - name: DefaultPreemption
    args: {minCandidateNodesPercentage: 5, minCandidateNodesAbsolute: 7}
  - name: VolumeBinding
    args: {bindTimeoutSeconds: 60}
",
    )
    .unwrap();
    let [first, second] = &config.profiles[..] else { panic!("two profiles") };
    assert_eq!((first.name.as_str(), first.percentage_of_nodes_to_score), ("first", Some(30)));
    assert_eq!(second.percentage_of_nodes_to_score, Some(100));
    let first_plugins = shown(first);
    for part in ["ImageLocality:1:7", "TaintToleration:1:9", "NodeAffinity:1:0"] {
        assert!(first_plugins.contains(part), "{part} in {first_plugins}");
    }
    assert!(!first_plugins.contains("InterPodAffinity") && first.preemption.is_none());
    assert_eq!(shown(second), "NodeResourcesFit:1:2 NodeName:1:0");
    assert!(second.preemption.is_none());
    assert_eq!(config.volume_timeout, Duration::from_secs(60));
    assert_eq!(config.pauses.longest, Duration::from_secs(20));
}

#[test]
fn extenders_are_told_what_they_are_for() {
    let config = read(
        "extenders:
- urlPrefix: https://127.0.0.1:8888/extender/
  filterVerb: filter
  prioritizeVerb: prioritize
  preemptVerb: preempt
  bindVerb: bind
  weight: 5
  enableHTTPS: true
  httpTimeout: 100ms
  nodeCacheCapable: true
  ignorable: true
  managedResources:
  - {name: example.com/gpu, ignoredByScheduler: true}
  - {name: example.com/fpga}
- urlPrefix: http://localhost
profiles:
- {}
- schedulerName: second
  pluginConfig: [{name: NodeResourcesFit, args: {ignoredResources: [example.com/mine]}}]
",
    )
    .unwrap();
    let verb = str::to_owned;
    let first = Settings {
        url: "https://127.0.0.1:8888/extender/".to_owned(),
        filter: verb("filter"),
        prioritize: verb("prioritize"),
        preempt: verb("preempt"),
        bind: verb("bind"),
        weight: 5,
        knows_nodes: true,
        resources: vec!["example.com/gpu".to_owned(), "example.com/fpga".to_owned()],
        is_ignorable: true,
        timeout: Duration::from_millis(100),
    };
    let second =
        Settings { url: "http://localhost".to_owned(), timeout: Duration::from_secs(5), ..Settings::default() };
    assert_eq!(config.extenders.iter().map(|extender| extender.settings.clone()).collect::<Vec<_>>(), [first, second]);
    // What extenders look after is not looked at here, in any profile.
    let nodes = || vec![crate::tests::node("n", serde_json::json!({}))];
    let asking = |name: &str| {
        let asked = serde_json::json!([{"name": "c", "image": "i", "resources": {"requests": {name: "1"}}}]);
        crate::tests::with("p", "0", serde_json::json!({"spec": {"containers": asked}}))
    };
    for profile in config.profiles {
        let own = profile.name == "second";
        let mut stage = crate::tests::Stage { profile, ..crate::tests::Stage::new(nodes()) };
        assert_eq!(stage.place(asking("example.com/gpu")).as_deref(), Ok("n"));
        assert!(stage.place(asking("example.com/fpga")).is_err());
        assert_eq!(stage.place(asking("example.com/mine")).is_ok(), own);
    }
}

#[test]
fn what_cannot_be_done_is_said() {
    let with = |what: &str| format!("profiles:\n- {what}\n");
    let extender = |what: &str| format!("extenders: [{{urlPrefix: 'http://e', {what}}}]");
    for (body, expected) in [
        (extender("prioritizeVerb: p"), "extenders[0].weight: must have a positive weight"),
        (extender("bindVerb: b}, {urlPrefix: 'http://e', bindVerb: b"), "found 2 extenders implementing bind"),
        (extender("managedResources: [{name: cpu}]"), "managedResources[0].name: is an invalid extended resource name"),
        (
            extender("managedResources: [{name: a.com/b}, {name: a.com/b}]"),
            "managedResources[1].name: duplicate extender managed resource name",
        ),
        (extender("httpTimeout: soon"), "extenders[0].httpTimeout: \"soon\" is no duration"),
        (extender("tlsConfig: {caFile: /nowhere}"), "extenders[0].tlsConfig.caFile: /nowhere: No such file"),
        (extender("tlsConfig: {caData: '*'}"), "extenders[0].tlsConfig.caFile: Invalid symbol"),
        ("extenders: [{urlPrefix: 'ftp://e'}]".to_owned(), "\"ftp://e\" is no address of a server"),
        (extender("verbs: []"), "unknown field `verbs`"),
        ("unknown: 1".to_owned(), "unknown field `unknown`"),
        ("percentageOfNodesToScore: 101".to_owned(), "percentageOfNodesToScore: 101 is not in the range 0 to 100"),
        ("podMaxBackoffSeconds: 1\npodInitialBackoffSeconds: 2".to_owned(), "is less than podInitialBackoffSeconds"),
        ("profiles:\n- {}\n- {}\n".to_owned(), "the schedulerName default-scheduler is there twice"),
        (with("plugins: {filter: {enabled: [{name: Mine}]}}"), "plugin \"Mine\" does not exist"),
        (with("plugins: {guess: {}}"), "there is no such extension point"),
        (with("plugins: {bind: {disabled: [{name: '*'}]}}"), "at least one bind plugin is needed"),
        (with("pluginConfig: [{name: Mine}]"), "there is no such plugin"),
        (
            with("pluginConfig: [{name: InterPodAffinity, args: {hardPodAffinityWeight: 101}}]"),
            "not in the range 0 to 100",
        ),
        (
            with("pluginConfig: [{name: PodTopologySpread, args: {defaultConstraints: [{}]}}]"),
            "default constraints need defaultingType List",
        ),
        (
            with("pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: Best}}}]"),
            "scoring strategy Best",
        ),
        (with("pluginConfig: [{name: NodeResourcesFit, args: {wrong: 1}}]"), "unknown field `wrong`"),
    ] {
        let error = read(&body).err().unwrap_or_else(|| "accepted".to_owned());
        assert!(error.contains(expected), "{body}: {error}");
    }
    let error = Config::read("apiVersion: v1\nkind: Pod\n", &RealWorld::shared()).err().map(|error| error.to_string());
    assert_eq!(
        error.as_deref(),
        Some("no KubeSchedulerConfiguration of kubescheduler.config.k8s.io/v1, but Pod of v1")
    );
}
