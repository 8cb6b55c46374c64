//! `cargo xtask up` and `down`: a server in the background with the example running on it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Failure;
use crate::run::{cargo, root, run, target};
use crate::{image, install};

const EXAMPLE: &str = "examples/hello.yaml";
/// A pod to look from.
const SHELL: &str = "examples/shell.yaml";
/// The example's node port.
const NODE_PORT: &str = "127.0.0.1:30080";

/// Where `up` remembers what it started.
fn state() -> PathBuf {
    target().join("up")
}

/// Installs, builds, starts, applies the example, shows it, and says how to go on.
pub(crate) fn up(flags: &[String]) -> Result<(), Failure> {
    if !install::is_root() {
        return Err("up runs containers; run it as root".to_owned());
    }
    if let Some(pid) = running() {
        return Err(format!("already up (pid {pid}); `cargo xtask down` stops it"));
    }
    install::ensure(install::NODE)?;
    println!("building (release)");
    run(&mut cargo(["build", "--release", "--locked", "-p", "skiff"]))?;
    let data = data_dir(flags);
    let images = data.join("images");
    fs::create_dir_all(&images).map_err(|e| format!("{}: {e}", images.display()))?;
    let built = target().join("images");
    for name in ["busybox", "nginx"] {
        image::build(name, &built)?;
        let archive = format!("{name}.tar");
        link_or_copy(&built.join(&archive), &images.join(&archive))?;
    }
    let (mut server, log) = start(flags, &data)?;
    let config = data.join("admin.kubeconfig");
    let kubectl = Kubectl { config: config.clone() };
    wait(&mut server, &log, "a Ready node", || {
        kubectl.says(&["get", "nodes", "--no-headers"]).is_some_and(|text| text.contains(" Ready"))
    })?;
    println!("\n$ kubectl apply -f {EXAMPLE}");
    kubectl.show(&["apply", "-f", EXAMPLE, "-f", SHELL])?;
    kubectl.show(&["rollout", "status", "deployment/hello", "--timeout=120s"])?;
    for words in [&["get", "nodes", "-o", "wide"][..], &["get", "deployments,replicasets,pods,services", "-o", "wide"]]
    {
        println!("\n$ kubectl {}", words.join(" "));
        kubectl.show(words)?;
    }
    visit(&kubectl)?;
    let binary = binary();
    println!(
        "\nlog         {}\nkubeconfig  {}\ngo on       export KUBECONFIG={}; {} kubectl get pods -A\nstop        cargo xtask down",
        log.display(),
        config.display(),
        config.display(),
        binary.display(),
    );
    Ok(())
}

/// Fetches the example's page in the three ways that a Service offers. On a data directory that was used before, its
/// pods may still be on their way back.
fn visit(kubectl: &Kubectl) -> Result<(), Failure> {
    let service = ["get", "service", "hello", "-o", "jsonpath={.spec.clusterIP}"];
    let cluster_ip = format!("{}:80", kubectl.says(&service).ok_or("the example's Service has no address")?.trim());
    let patience = Duration::from_secs(60);
    for address in [&cluster_ip, NODE_PORT] {
        let mut answer = page(address);
        until(patience, || {
            answer = page(address);
            answer.is_ok()
        });
        println!("\n$ curl http://{address}\n{}", answer.map_err(|e| format!("http://{address}: {e}"))?.trim());
    }
    let words = ["exec", "shell", "--", "wget", "-qO-", "http://hello"];
    println!("\n$ kubectl {}", words.join(" "));
    until(patience, || kubectl.says(&words).is_some());
    kubectl.show(&words)
}

/// The body of what a web server answers.
fn page(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET / HTTP/1.0\r\nHost: hello\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    match head.split_whitespace().nth(1) {
        Some("200") => Ok(body.to_owned()),
        _ => Err(std::io::Error::other(head.lines().next().unwrap_or("no answer").to_owned())),
    }
}

/// Stops the server that `up` started, and everything that ran on it.
pub(crate) fn down() -> Result<(), Failure> {
    let data =
        fs::read_to_string(state().join("data-dir")).map(PathBuf::from).map_err(|_| "nothing is up".to_owned())?;
    if let Some(pid) = running() {
        run(Command::new("kill").arg(pid.to_string()))?;
        let gone = until(Duration::from_secs(10), || running().is_none());
        if !gone {
            return Err(format!("pid {pid} does not stop; see {}", state().join("server.log").display()));
        }
    }
    let data_text = data.display().to_string();
    run(Command::new(binary()).args(["cleanup", "--data-dir", &data_text]))?;
    let _ = fs::remove_dir_all(state());
    println!("stopped; {data_text} keeps its data, `skiff cleanup --data-dir {data_text} --purge` removes that too");
    Ok(())
}

fn binary() -> PathBuf {
    target().join("release/skiff")
}

fn data_dir(flags: &[String]) -> PathBuf {
    let mut flags = flags.iter();
    while let Some(flag) = flags.next() {
        match flag.strip_prefix("--data-dir") {
            Some("") => return flags.next().map(PathBuf::from).unwrap_or_default(),
            Some(rest) if rest.starts_with('=') => return PathBuf::from(&rest[1..]),
            _ => {}
        }
    }
    PathBuf::from("/var/lib/skiff")
}

fn link_or_copy(from: &Path, to: &Path) -> Result<(), Failure> {
    if to.exists() {
        return Ok(());
    }
    fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(|_| ())).map_err(|e| format!("{}: {e}", to.display()))
}

/// The pid of the server that `up` started, while it lives.
fn running() -> Option<u32> {
    let pid: u32 = fs::read_to_string(state().join("pid")).ok()?.trim().parse().ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    String::from_utf8_lossy(&command).contains("skiff").then_some(pid)
}

fn start(flags: &[String], data: &Path) -> Result<(Child, PathBuf), Failure> {
    let state = state();
    fs::create_dir_all(&state).map_err(|e| format!("{}: {e}", state.display()))?;
    let log = state.join("server.log");
    let file = fs::File::create(&log).map_err(|e| format!("{}: {e}", log.display()))?;
    let mut command = Command::new(binary());
    command.arg("server").args(flags).stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
    let server = command.spawn().map_err(|e| format!("cannot start skiff: {e}"))?;
    let remember = |name: &str, text: String| fs::write(state.join(name), text).map_err(|e| format!("{name}: {e}"));
    remember("pid", server.id().to_string())?;
    remember("data-dir", data.display().to_string())?;
    println!("started skiff server, pid {}", server.id());
    Ok((server, log))
}

/// Waits for `ready`, at most two minutes; a server that ends meanwhile is the answer.
fn wait(server: &mut Child, log: &Path, what: &str, mut ready: impl FnMut() -> bool) -> Result<(), Failure> {
    let mut ended = None;
    let reached = until(Duration::from_secs(120), || {
        ended = server.try_wait().ok().flatten();
        ended.is_some() || ready()
    });
    match ended {
        Some(status) => {
            let text = fs::read_to_string(log).unwrap_or_default();
            let last = text.lines().last().unwrap_or_default();
            Err(format!("skiff server ended ({status}): {last}\n       the log is {}", log.display()))
        }
        None if reached => Ok(()),
        None => Err(format!("no {what} after two minutes; the log is {}", log.display())),
    }
}

/// Asks again and again; the server is another process, and its files and API are all there is to watch.
#[allow(clippy::disallowed_methods, reason = "a tool beside the house has no World")]
fn until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < limit {
        if done() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    false
}

struct Kubectl {
    config: PathBuf,
}

impl Kubectl {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.arg("kubectl").arg("--kubeconfig").arg(&self.config).args(words).current_dir(root());
        command
    }
    fn show(&self, words: &[&str]) -> Result<(), Failure> {
        run(&mut self.command(words))
    }
    fn says(&self, words: &[&str]) -> Option<String> {
        let out = self.command(words).stderr(Stdio::null()).output().ok()?;
        out.status.success().then(|| String::from_utf8_lossy(&out.stdout).into_owned())
    }
}
