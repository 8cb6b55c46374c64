//! Names outside the cluster: asked of the machine's own resolvers.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use parking_lot::{Mutex, RwLock};
use skiff_meta::WorldRef;
use skiff_meta::world::WorldExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::cache::{Cache, Question, Reply};
use super::settings::Settings;

/// How long one server has to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the list of servers is gone through.
const ROUNDS: usize = 2;
/// The largest UDP answer to ask for: what passes everywhere unfragmented.
pub(super) const MAX_UDP: u16 = 1_232;

/// The machine's resolvers and what they said of late.
pub(super) struct Upstream {
    resolv_conf: PathBuf,
    /// Addresses of this server: asking it would go in circles.
    ourselves: Vec<IpAddr>,
    servers: Mutex<(Option<SystemTime>, Vec<SocketAddr>)>,
    /// What the cluster's administrator says.
    settings: RwLock<Arc<Settings>>,
    cache: Mutex<Cache>,
    world: WorldRef,
}

impl Upstream {
    pub(super) fn new(resolv_conf: PathBuf, ourselves: Vec<IpAddr>, world: WorldRef) -> Self {
        Self {
            resolv_conf,
            ourselves,
            servers: Mutex::default(),
            settings: RwLock::default(),
            cache: Mutex::default(),
            world,
        }
    }

    /// These servers, whatever the machine uses.
    #[cfg(test)]
    pub(super) fn with_servers(servers: Vec<SocketAddr>, world: WorldRef) -> Self {
        // The list of a file that is there is not read again.
        let file = PathBuf::from("/proc/self/exe");
        let changed = std::fs::metadata(&file).and_then(|m| m.modified()).ok();
        Self { servers: Mutex::new((changed, servers)), ..Self::new(file, Vec::new(), world) }
    }

    /// From now on, names are asked for where these settings say. What others said before is forgotten.
    pub(super) fn set(&self, settings: Settings) {
        *self.settings.write() = Arc::new(settings);
        self.cache.lock().clear();
    }

    /// What the administrator says now.
    pub(super) fn settings(&self) -> Arc<Settings> {
        self.settings.read().clone()
    }

    /// A kept answer.
    pub(super) fn cached(&self, question: &Question) -> Option<Reply> {
        self.cache.lock().get(question, self.world.elapsed())
    }

    /// Asks; `None` when nobody answered. A refusal of one server is passed on only if no other knows better.
    pub(super) async fn ask(&self, question: &Question) -> Option<Reply> {
        let settings = self.settings();
        let servers = match settings.servers_for(&question.0) {
            Some(servers) => servers.to_vec(),
            None => self.servers(),
        };
        let mut worst = None;
        for server in std::iter::repeat_n(&servers, ROUNDS).flatten() {
            let answer = self.world.timeout(PATIENCE, self.exchange(*server, question)).await;
            match answer {
                Some(Ok(reply)) if matches!(reply.code, ResponseCode::NoError | ResponseCode::NXDomain) => {
                    let most = settings.cache_for(&question.0);
                    self.cache.lock().put(question.clone(), &reply, most, self.world.elapsed());
                    return Some(reply);
                }
                Some(Ok(reply)) => worst = Some(reply),
                Some(Err(error)) => tracing::debug!(%server, "resolver did not answer: {error}"),
                None => tracing::debug!(%server, "resolver did not answer in time"),
            }
        }
        worst
    }

    /// The servers, read anew when the file has changed.
    fn servers(&self) -> Vec<SocketAddr> {
        let changed = std::fs::metadata(&self.resolv_conf).and_then(|m| m.modified()).ok();
        let mut servers = self.servers.lock();
        if servers.0 != changed || changed.is_none() {
            let text = std::fs::read_to_string(&self.resolv_conf).unwrap_or_default();
            *servers = (changed, parse(&text, &self.ourselves));
        }
        servers.1.clone()
    }

    async fn exchange(&self, server: SocketAddr, question: &Question) -> io::Result<Reply> {
        let id = (self.world.random() & 0xffff) as u16;
        let request = request(id, question).map_err(io::Error::other)?;
        let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(server).await?;
        socket.send(&request).await?;
        let mut buffer = vec![0; usize::from(u16::MAX)];
        loop {
            let size = socket.recv(&mut buffer).await?;
            // Whatever does not fit the question is not the answer; the true one may still come.
            match read(buffer.get(..size).unwrap_or_default(), id, question) {
                Some((_, true)) => return over_tcp(server, id, &request, question).await,
                Some((reply, false)) => return Ok(reply),
                None => {}
            }
        }
    }
}

async fn over_tcp(server: SocketAddr, id: u16, request: &[u8], question: &Question) -> io::Result<Reply> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(request.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], request].concat()).await?;
    let size = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(size)];
    stream.read_exact(&mut buffer).await?;
    let reply = read(&buffer, id, question).map(|(reply, _)| reply);
    reply.ok_or_else(|| io::Error::other("the answer is to another question"))
}

fn request(id: u16, (name, record_type, class): &Question) -> Result<Vec<u8>, hickory_proto::ProtoError> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let mut query = Query::query(name.clone(), *record_type);
    query.set_query_class(*class);
    message.add_query(query);
    let mut edns = Edns::new();
    edns.set_max_payload(MAX_UDP);
    message.set_edns(edns);
    message.to_vec()
}

/// The reply to `question` and whether it was truncated.
fn read(bytes: &[u8], id: u16, (name, record_type, class): &Question) -> Option<(Reply, bool)> {
    let message = Message::from_vec(bytes).ok()?;
    let [query] = message.queries.as_slice() else { return None };
    let fits = message.metadata.id == id
        && message.metadata.message_type == MessageType::Response
        && query.name() == name
        && query.query_type() == *record_type
        && query.query_class() == *class;
    let truncated = message.metadata.truncation;
    let reply = Reply {
        code: message.metadata.response_code,
        records: message.answers,
        authorities: message.authorities,
        additionals: message.additionals,
    };
    fits.then_some((reply, truncated))
}

fn parse(resolv_conf: &str, ourselves: &[IpAddr]) -> Vec<SocketAddr> {
    let servers = resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())?;
        // A zone (`fe80::1%eth0`) is not something a socket address can be parsed with; such servers are left out.
        address.parse::<IpAddr>().ok()
    });
    servers.filter(|server| !ourselves.contains(server)).map(|server| SocketAddr::new(server, 53)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_read_without_ourselves() {
        let text =
            "# nameserver 9.9.9.9\nsearch x\nnameserver 10.0.0.1\nnameserver 10.42.0.1\n nameserver ::1\nnameserver\n";
        let servers = parse(text, &["10.42.0.1".parse().unwrap()]);
        assert_eq!(servers, ["10.0.0.1:53".parse().unwrap(), "[::1]:53".parse().unwrap()]);
    }

    #[test]
    fn only_the_answer_to_the_question_is_taken() {
        let question = |name: &str| {
            let name = hickory_proto::rr::Name::from_ascii(name).unwrap();
            (name, hickory_proto::rr::RecordType::A, hickory_proto::rr::DNSClass::IN)
        };
        let mut message = Message::from_vec(&request(7, &question("a.example.")).unwrap()).unwrap();
        assert!(message.metadata.recursion_desired);
        assert_eq!(read(&message.to_vec().unwrap(), 7, &question("a.example.")), None, "a query is no answer");
        message.metadata.message_type = MessageType::Response;
        message.metadata.truncation = true;
        let bytes = message.to_vec().unwrap();
        assert!(read(&bytes, 7, &question("a.example.")).is_some_and(|(_, truncated)| truncated));
        assert_eq!(read(&bytes, 8, &question("a.example.")), None);
        assert_eq!(read(&bytes, 7, &question("b.example.")), None);
    }
}
