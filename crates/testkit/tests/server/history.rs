//! `get --at` and `diff --from`: what was, in the words of the CLI.

use crate::support::{code, get, server, set, skiff};

#[test]
fn the_past_is_shown_and_compared() {
    let mut server = server(120, &[]);
    let first = set(&server, "x", "one");
    let second = set(&server, "x", "two");
    server.kubectl(&["label", "configmap", "x", "a=b"]).expect("labelled");
    server.kubectl(&["delete", "configmap", "x"]).expect("deleted");
    set(&server, "y", "new");

    let value = |server: &_, at: &str| get(server, &["configmap", "x", "--at", at])["data"]["key"].clone();
    assert_eq!((value(&server, &first), value(&server, &second)), ("one".into(), "two".into()));
    let list = get(&server, &["configmaps", "--at", &second, "-l", "!a"]);
    let names: Vec<_> =
        list["items"].as_array().expect("a list").iter().map(|item| &item["metadata"]["name"]).collect();
    assert!(names.contains(&&"x".into()) && !names.contains(&&"y".into()), "{names:?}");
    let table = server.kubectl(&["get", "configmaps", "--at", &second]).expect("a table");
    assert!(table.contains("\nx ") && !table.contains("\ny "), "{table}");
    for (at, words) in [("1h", "further back"), ("999999", "Too large resource version"), ("soon", "is no moment")] {
        let refused = server.kubectl(&["get", "configmaps", "--at", at]).expect_err("refused");
        assert!(refused.contains(words), "{at}: {refused}");
    }

    let kubeconfig = server.kubeconfig().display().to_string();
    let diff = |words: &[&str]| {
        let mut all = vec!["diff", "--kubeconfig", &kubeconfig];
        all.extend(words);
        let (exit, out, err) = skiff(&all);
        assert_eq!(exit, Some(0), "{err}");
        out
    };
    let changed = diff(&["--from", &first, "--to", &second, "configmap/x"]);
    assert!(changed.starts_with(&format!("--- configmap/x in default at {first}\n")), "{changed}");
    assert!(changed.contains("\n data:\n-  key: one\n+  key: two\n kind: ConfigMap\n"), "{changed}");
    let gone = diff(&["--from", &second, "configmaps"]);
    assert!(gone.contains("+++ configmap/x in default at now (absent)\n"), "{gone}");
    assert!(gone.contains(&format!("--- configmap/y in default at {second} (absent)\n")), "{gone}");
    assert_eq!(diff(&["--from", "0s", "configmap/y"]), "");

    // Whoever may not read it now may not read what it was.
    for path in ["/api/v1/namespaces/default/configmaps", "/api/v1/namespaces/default/configmaps/x"] {
        assert_eq!(code(&server, &format!("{path}?at={first}"), None), "403");
    }
    server.kill();
    server.launch().expect("it starts again");
    assert_eq!((value(&server, &first), value(&server, &second)), ("one".into(), "two".into()));
}
