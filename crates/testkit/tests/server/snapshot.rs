//! `skiff snapshot`: a cluster saved while it runs, lost, and brought back.

use std::fs;

use crate::support::{code, get, server, set, skiff, version};

#[test]
fn a_cluster_is_saved_and_comes_back() {
    let mut server = server(122, &[]);
    let kubeconfig = server.kubeconfig().display().to_string();
    let saved = set(&server, "x", "saved");
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("snapshot").display().to_string();
    let (exit, out, err) = skiff(&["snapshot", "save", &file, "--kubeconfig", &kubeconfig]);
    assert!(exit == Some(0) && out.contains("keys at revision"), "{out}{err}");
    assert_eq!(code(&server, "/skiff/snapshot", None), "403");
    let token = server.kubectl(&["create", "token", "default"]).expect("a token");
    set(&server, "x", "later");

    // The data directory is lost, but for what the test itself keeps there.
    let data = server.data_dir().display().to_string();
    let restore = |from: &str| skiff(&["snapshot", "restore", from, "--data-dir", &data]);
    let (exit, _, err) = restore(&file);
    assert!(exit == Some(2) && err.contains("exists already"), "{err}");
    server.stop().expect("it stops");
    let authority = fs::read(server.data_dir().join("pki/ca.crt")).expect("an authority");
    fs::remove_dir_all(server.data_dir().join("store")).expect("a store");
    fs::remove_dir_all(server.data_dir().join("pki")).expect("keys");

    let damaged = dir.path().join("damaged").display().to_string();
    let mut bytes = fs::read(&file).expect("the snapshot");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&damaged, bytes).expect("room");
    let (exit, _, err) = restore(&damaged);
    assert!(exit == Some(2) && err.contains("is damaged at byte"), "{err}");
    assert!(!server.data_dir().join("store").exists() && !server.data_dir().join("pki").exists());

    let (exit, _, err) = restore(&file);
    assert_eq!(exit, Some(0), "{err}");
    server.launch().expect("it starts on what was restored");
    assert_eq!(get(&server, &["configmap", "x"])["data"]["key"], "saved");
    assert_eq!(version(&server, "x"), saved);
    assert_eq!(fs::read(server.data_dir().join("pki/ca.crt")).expect("an authority"), authority);
    // Tokens of before are still good, since the key that signs them came along.
    assert_eq!(code(&server, "/apis", Some(token.trim())), "200");
    assert_eq!(code(&server, "/skiff/snapshot", Some(token.trim())), "403");
    set(&server, "x", "goes on");
}
