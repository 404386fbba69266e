//! A name server that says what it is told, over UDP and TCP, lies included.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Instant,
};

use hickory_resolver::proto::{
    op::{Message, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, rdata::SRV},
};

use super::{PATIENCE, POLL_INTERVAL, lock};

/// A datagram that is longer says that there is more, which TCP has.
const DATAGRAM_SIZE_MAX: usize = 1232;

/// What it says about one name.
#[derive(Clone)]
pub enum Says {
    /// Of these records those that are asked for.
    Records {
        ttl: u32,
        records: Vec<RData>,
    },
    NoSuchName,
    /// SERVFAIL.
    Failure,
    /// Nothing ever.
    Nothing,
    /// These addresses, under an id that nobody has used.
    WrongId(Vec<RData>),
    /// These addresses, as those of another name.
    OfAnotherName(Vec<RData>),
    /// These addresses, as if something else had been asked.
    ToAnotherQuestion(Vec<RData>),
}

impl Says {
    pub fn addresses(ttl: u32, addresses: impl IntoIterator<Item = impl Into<IpAddr>>) -> Says {
        let records = addresses.into_iter().map(|address| address.into().into()).collect();
        Says::Records { ttl, records }
    }

    /// SRV records: priority, weight, port, target.
    pub fn services(ttl: u32, services: &[(u16, u16, u16, &str)]) -> Says {
        let record = |&(priority, weight, port, target): &(_, _, _, &str)| {
            RData::SRV(SRV::new(priority, weight, port, name(target)))
        };
        Says::Records { ttl, records: services.iter().map(record).collect() }
    }

    pub fn alias(ttl: u32, target: &str) -> Says {
        let alias = hickory_resolver::proto::rr::rdata::CNAME(name(target));
        Says::Records { ttl, records: vec![RData::CNAME(alias)] }
    }
}

#[derive(Default)]
struct Zone {
    says: HashMap<Name, Says>,
    asked: Vec<(String, Instant)>,
}

pub struct NameServer {
    pub address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    /// Ends its threads when dropped.
    _alive: mpsc::Sender<()>,
}

impl NameServer {
    pub fn start() -> NameServer {
        let (datagrams, streams) = sockets();
        let address = datagrams.local_addr().expect("an address");
        let zone = Arc::new(Mutex::new(Zone::default()));
        let (alive, ended) = mpsc::channel();
        let shared = Arc::clone(&zone);
        thread::spawn(move || {
            while ended.try_recv() != Err(mpsc::TryRecvError::Disconnected) {
                answer_datagram(&datagrams, &shared);
                if let Ok((stream, _)) = streams.accept() {
                    let shared = Arc::clone(&shared);
                    thread::spawn(move || answer_stream(stream, &shared));
                }
            }
        });
        NameServer { address, zone, _alive: alive }
    }

    /// What it says from now on; about other names, that there are none.
    pub fn say(&self, about: &str, says: Says) {
        lock(&self.zone).says.insert(name(about), says);
    }

    /// When it was asked about a name, for whatever records.
    pub fn asked(&self, about: &str) -> Vec<Instant> {
        let zone = lock(&self.zone);
        let is_it = |asked: &str| asked.trim_end_matches('.').eq_ignore_ascii_case(about);
        zone.asked.iter().filter(|(asked, _)| is_it(asked)).map(|(_, at)| *at).collect()
    }

    /// The `resolver` section that leads to it.
    pub fn section(&self, more: &str) -> String {
        format!("resolver: {{ nameservers: [\"{}\"], {more} }}\n", self.address)
    }
}

fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).expect("a name");
    name.set_fqdn(true);
    name
}

/// One port for both protocols.
fn sockets() -> (UdpSocket, TcpListener) {
    let both = || {
        let datagrams = UdpSocket::bind("127.0.0.1:0").ok()?;
        let streams = TcpListener::bind(datagrams.local_addr().ok()?).ok()?;
        datagrams.set_read_timeout(Some(POLL_INTERVAL)).ok()?;
        streams.set_nonblocking(true).ok()?;
        Some((datagrams, streams))
    };
    (0..100).find_map(|_| both()).expect("a free port")
}

fn answer_datagram(socket: &UdpSocket, zone: &Mutex<Zone>) {
    let mut bytes = [0; 4096];
    let Ok((length, from)) = socket.recv_from(&mut bytes) else { return };
    let Some(mut answer) = answer(&bytes[..length], zone) else { return };
    let mut bytes = answer.to_vec().expect("a message");
    if bytes.len() > DATAGRAM_SIZE_MAX {
        answer.metadata.truncation = true;
        answer.answers.clear();
        bytes = answer.to_vec().expect("a message");
    }
    // Whoever asked may be gone.
    drop(socket.send_to(&bytes, from));
}

fn answer_stream(mut stream: TcpStream, zone: &Mutex<Zone>) {
    stream.set_nonblocking(false).expect("blocking");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut length = [0; 2];
    while stream.read_exact(&mut length).is_ok() {
        let mut bytes = vec![0; u16::from_be_bytes(length).into()];
        if stream.read_exact(&mut bytes).is_err() {
            return;
        }
        let Some(answer) = answer(&bytes, zone) else { continue };
        let answer = answer.to_vec().expect("a message");
        let length = u16::try_from(answer.len()).expect("a short message").to_be_bytes();
        if stream.write_all(&[&length, &*answer].concat()).is_err() {
            return;
        }
    }
}

fn answer(bytes: &[u8], zone: &Mutex<Zone>) -> Option<Message> {
    let asked = Message::from_vec(bytes).ok()?;
    let query = asked.queries.first()?.clone();
    let about = query.name().clone();
    let mut zone = lock(zone);
    zone.asked.push((about.to_ascii(), Instant::now()));
    let says = zone.says.get(&about).cloned().unwrap_or(Says::NoSuchName);
    drop(zone);
    let mut answer = Message::response(asked.metadata.id, OpCode::Query);
    let mut asked = query.clone();
    match says {
        Says::Nothing => return None,
        Says::NoSuchName => answer.metadata.response_code = ResponseCode::NXDomain,
        Says::Failure => answer.metadata.response_code = ResponseCode::ServFail,
        Says::Records { ttl, records } => add(&mut answer, &query, &about, ttl, records),
        Says::WrongId(records) => {
            answer.metadata.id = answer.metadata.id.wrapping_add(1);
            add(&mut answer, &query, &about, 0, records);
        }
        Says::OfAnotherName(records) => {
            add(&mut answer, &query, &name("another.name"), 0, records);
        }
        Says::ToAnotherQuestion(records) => {
            asked = Query::query(name("another.name"), query.query_type());
            add(&mut answer, &query, &about, 0, records);
        }
    }
    answer.add_query(asked);
    Some(answer)
}

fn add(answer: &mut Message, query: &Query, of: &Name, ttl: u32, records: Vec<RData>) {
    let is_asked = |record: &RData| {
        record.record_type() == query.query_type() || record.record_type().is_cname()
    };
    let records = records.into_iter().filter(is_asked);
    answer.add_answers(records.map(|record| Record::from_rdata(of.clone(), ttl, record)));
}
