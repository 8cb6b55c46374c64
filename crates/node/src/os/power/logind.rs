//! systemd's logind, which decides when the machine stops.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;

use super::dbus::{Bus, Call, Message};
use super::{Power, PowerWatch};

const LOGIN: (&str, &str, &str) =
    ("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager");
const SYSTEMD: (&str, &str, &str) =
    ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager");
const BUS: (&str, &str, &str) = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus");
/// What it says when the machine is about to stop, or goes on after all.
const SIGNAL: &str = "PrepareForShutdown";
const SIGHUP: i32 = 1;

/// logind, by the system's bus.
pub struct Logind {
    bus: PathBuf,
    /// Where logind reads how long it waits.
    settings: PathBuf,
}

impl Default for Logind {
    fn default() -> Self {
        Self { bus: "/run/dbus/system_bus_socket".into(), settings: "/etc/systemd/logind.conf.d".into() }
    }
}

#[async_trait]
impl Power for Logind {
    async fn watch(&self) -> io::Result<Box<dyn PowerWatch>> {
        let mut bus = Bus::connect(&self.bus).await?;
        let mut news = VecDeque::new();
        ask(&mut bus, &mut news, Call::new(BUS, "Hello")).await?;
        let rule = format!("type='signal',interface='{}',member='{SIGNAL}',path='{}'", LOGIN.2, LOGIN.1);
        ask(&mut bus, &mut news, Call::new(BUS, "AddMatch").string(&rule)).await?;
        Ok(Box::new(Watch { bus, news, lock: None, settings: self.settings.clone() }))
    }
}

struct Watch {
    bus: Bus,
    /// What was told while answers were waited for.
    news: VecDeque<bool>,
    /// As long as it is open the machine waits.
    lock: Option<OwnedFd>,
    settings: PathBuf,
}

fn heard(message: &Message) -> io::Result<Option<bool>> {
    if message.is_signal(LOGIN.2, SIGNAL) { message.body().boolean().map(Some) } else { Ok(None) }
}

/// Calls and waits for the answer.
async fn ask(bus: &mut Bus, news: &mut VecDeque<bool>, call: Call) -> io::Result<Message> {
    let serial = bus.send(call).await?;
    loop {
        let message = bus.receive().await?;
        news.extend(heard(&message)?);
        if message.answers(serial) {
            return message.into_answer();
        }
    }
}

fn write_patience(directory: &Path, patience: Duration) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let text = format!("# Pods are given this long to end.\n[Login]\nInhibitDelayMaxSec={}\n", patience.as_secs());
    std::fs::write(directory.join("99-skiff.conf"), text)
}

#[async_trait]
impl PowerWatch for Watch {
    async fn patience(&mut self) -> io::Result<Duration> {
        let properties = (LOGIN.0, LOGIN.1, "org.freedesktop.DBus.Properties");
        let call = Call::new(properties, "Get").string(LOGIN.2).string("InhibitDelayMaxUSec");
        let answer = ask(&mut self.bus, &mut self.news, call).await?;
        answer.body().variant_of_number().map(Duration::from_micros)
    }

    async fn ask_for(&mut self, patience: Duration) -> io::Result<()> {
        write_patience(&self.settings, patience)?;
        let call = Call::new(SYSTEMD, "KillUnit").string("systemd-logind.service").string("all").int32(SIGHUP);
        ask(&mut self.bus, &mut self.news, call).await.map(drop)
    }

    async fn hold(&mut self) -> io::Result<()> {
        let call = Call::new(LOGIN, "Inhibit").string("shutdown").string("kubelet");
        let call = call.string("Pods are given time to end").string("delay");
        let answer = ask(&mut self.bus, &mut self.news, call).await?;
        self.lock = answer.into_file();
        if self.lock.is_some() { Ok(()) } else { Err(io::Error::other("logind gave no lock")) }
    }

    fn release(&mut self) {
        self.lock = None;
    }

    async fn next(&mut self) -> io::Result<bool> {
        loop {
            if let Some(told) = self.news.pop_front() {
                return Ok(told);
            }
            self.news.extend(heard(&self.bus.receive().await?)?);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::power::dbus::testing::{Peer, listener};

    /// A bus on which logind gives a lock and tells that the machine stops, before it answers.
    #[tokio::test]
    async fn a_lock_is_held_until_it_is_released() {
        let dir = tempfile::tempdir().expect("a directory");
        let (bus, settings) = (dir.path().join("bus"), dir.path().join("conf"));
        let mut server = listener(&bus);
        let client = async {
            let mut watch = Logind { bus: bus.clone(), settings: settings.clone() }.watch().await.expect("a bus");
            assert_eq!(watch.patience().await.expect("a time"), Duration::from_secs(5));
            watch.ask_for(Duration::from_secs(30)).await.expect("more of it");
            watch.hold().await.expect("a lock");
            assert!(watch.next().await.expect("news"));
            watch.release();
            assert!(watch.next().await.is_err(), "the bus has gone");
        };
        let logind = async {
            let mut peer = Peer::accept(&mut server).await;
            for member in ["Hello", "AddMatch"] {
                let call = peer.expect(member).await;
                peer.answer(&call, None, &[]).await;
            }
            let call = peer.expect("Get").await;
            peer.answer(&call, None, &number_in_variant(5_000_000)).await;
            let call = peer.expect("KillUnit").await;
            peer.answer(&call, None, &[]).await;
            let call = peer.expect("Inhibit").await;
            peer.tell_signal(LOGIN.2, SIGNAL, true).await;
            let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
            peer.answer(&call, Some(theirs.into()), &[0, 0, 0, 0]).await;
            ours.set_nonblocking(true).expect("set");
            let ours = tokio::net::UnixStream::from_std(ours).expect("a stream");
            // Readable, and at its end, once the lock is closed.
            ours.readable().await.expect("closed");
        };
        tokio::join!(client, logind);
        let written = std::fs::read_to_string(settings.join("99-skiff.conf")).expect("written");
        assert!(written.ends_with("[Login]\nInhibitDelayMaxSec=30\n"), "{written}");
    }

    fn number_in_variant(number: u64) -> Vec<u8> {
        [&[1, b't', 0, 0, 0, 0, 0, 0][..], &number.to_ne_bytes()].concat()
    }
}
