//! Runs one container on a private containerd and tells how long each step took: `one_container DIR ARCHIVE IMAGE`.
//!
//! Needs root, containerd and runc. The pod uses the host's network, so no network plugin is needed.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;

use skiff_cri::containerd::{Containerd, ContainerdOptions};
use skiff_cri::v1::*;
use skiff_meta::world::RealWorld;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("usage: one_container DIR ARCHIVE IMAGE");
    let (directory, archive, image) = (PathBuf::from(next()?), PathBuf::from(next()?), next()?);
    let world = RealWorld::shared();
    let step = |what: &str| println!("{:>6} ms  {what}", world.elapsed().as_millis());

    let options = ContainerdOptions {
        directory: directory.join("containerd"),
        cni_conf_dir: directory.join("cni/net.d"),
        cni_bin_dir: directory.join("cni/bin"),
        registries: directory.join("registries.yaml"),
        own_network: true,
    };
    let containerd = Containerd::start(options, world.clone()).await?;
    let runtime = containerd.runtime();
    step(&format!("containerd answers: {:?}", runtime.version().await?));
    step(&format!("imported {:?}", runtime.import_images(&archive).await?));
    let mut events = runtime.events().await?;

    let host = NamespaceOption { network: NamespaceMode::Node.into(), ..NamespaceOption::default() };
    let sandbox_config = PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: "one".into(),
            uid: format!("uid-{}", world.random()),
            namespace: "default".into(),
            attempt: 0,
        }),
        log_directory: directory.join("logs").display().to_string(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: "/skiff-example".into(),
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(host.clone()),
                ..LinuxSandboxSecurityContext::default()
            }),
            ..LinuxPodSandboxConfig::default()
        }),
        ..PodSandboxConfig::default()
    };
    let sandbox = runtime.run_pod_sandbox(sandbox_config.clone(), "").await?;
    step("sandbox runs");
    let config = ContainerConfig {
        metadata: Some(ContainerMetadata { name: "main".into(), attempt: 0 }),
        image: Some(ImageSpec { image, ..ImageSpec::default() }),
        command: vec!["/bin/sh".into(), "-c".into(), "echo hello; exit 3".into()],
        labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        log_path: "main.log".into(),
        linux: Some(LinuxContainerConfig {
            security_context: Some(LinuxContainerSecurityContext {
                namespace_options: Some(host),
                ..LinuxContainerSecurityContext::default()
            }),
            ..LinuxContainerConfig::default()
        }),
        ..ContainerConfig::default()
    };
    let container = runtime.create_container(&sandbox, config, sandbox_config).await?;
    step("container made");
    runtime.start_container(&container).await?;
    step("container started");
    while let Some(event) = futures::StreamExt::next(&mut events).await {
        if event?.id == container {
            break;
        }
    }
    step("heard of its end");
    let status = loop {
        let status = runtime.container_status(&container).await?;
        if status.state() == ContainerState::ContainerExited {
            break status;
        }
        step("the runtime does not know of it yet");
        world.sleep(std::time::Duration::from_millis(5)).await;
    };
    step(&format!("exit code {}", status.exit_code));
    runtime.stop_pod_sandbox(&sandbox).await?;
    step("sandbox stopped");
    runtime.remove_pod_sandbox(&sandbox).await?;
    step("sandbox removed");
    print!("log: {}", std::fs::read_to_string(directory.join("logs/main.log"))?);
    containerd.stop().await;
    step("containerd stopped");
    Ok(())
}
