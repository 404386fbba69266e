//! Asks name servers, or `/etc/hosts`, once.

use std::{
    collections::HashSet,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use hickory_resolver::{
    Hosts, MAX_TTL, TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    lookup::Lookup,
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::Query,
        rr::{Name, RData, Record, RecordType, rdata::SRV},
    },
    system_conf::read_system_conf,
};
use tokio::{task::JoinSet, time::timeout};

use super::{Answer, FOUND_MAX, Failure, Found, Outcome, Question, Records, Service};
use crate::config::{Family, Resolver};

/// SRV records that are taken of one answer.
const SERVICES_MAX: usize = FOUND_MAX;
/// Targets of SRV records that are asked about at a time.
const TARGETS_AT_ONCE: usize = 16;
/// Further tries within one lookup, as datagrams are lost.
const RETRIES: usize = 2;
/// Files that say how names resolve on this system.
const SYSTEM_FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];
/// resolv.conf(5): without a name server there, the one on this host is asked.
const OWN_NAMESERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53);

/// Makes a new [`Client`] whenever the files of the system have changed.
pub(super) struct Clients {
    settings: Resolver,
    made: Option<(Stamps, Arc<Client>)>,
}

type Stamps = [Option<SystemTime>; SYSTEM_FILES.len()];

impl Clients {
    pub(super) fn new(settings: Resolver) -> Self {
        Self { settings, made: None }
    }

    /// `None`: there can be none, which has been logged.
    pub(super) fn now(&mut self) -> Option<Arc<Client>> {
        let stamp = |file| fs::metadata(file).and_then(|file| file.modified()).ok();
        let stamps = SYSTEM_FILES.map(stamp);
        if let Some((made_of, client)) = &self.made
            && *made_of == stamps
        {
            return Some(Arc::clone(client));
        }
        let client = Client::new(&self.settings)
            .inspect_err(|error| tracing::error!(%error, "names are not resolved"))
            .ok();
        let client = Arc::new(client?);
        self.made = Some((stamps, Arc::clone(&client)));
        Some(client)
    }
}

pub(super) struct Client {
    resolver: TokioResolver,
    hosts: Hosts,
    family: Family,
    timeout: Duration,
    /// No search list applies.
    is_absolute: bool,
}

impl Client {
    fn new(settings: &Resolver) -> Result<Self, NetError> {
        let is_absolute = !settings.nameservers.is_empty();
        let (config, mut options) = if is_absolute {
            (of_nameservers(&settings.nameservers), ResolverOpts::default())
        } else {
            read_system_conf().unwrap_or_else(|error| {
                tracing::warn!(%error, "/etc/resolv.conf names no name server; asking this host's");
                (of_nameservers(&[OWN_NAMESERVER]), ResolverOpts::default())
            })
        };
        options.attempts = RETRIES;
        options.timeout = settings.timeout / (RETRIES as u32 + 1);
        // Answers are kept in the book, by rules of its own.
        options.cache_size = 0;
        options.preserve_intermediates = false;
        // It looks there for the first name of a search list only.
        options.use_hosts_file = ResolveHosts::Never;
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        Ok(Self {
            resolver: builder.with_options(options).build()?,
            hosts: Hosts::from_system().unwrap_or_default(),
            family: settings.family,
            timeout: settings.timeout,
            is_absolute,
        })
    }

    /// One lookup, within its time.
    pub(super) async fn ask(self: &Arc<Self>, question: &Question) -> Outcome {
        match timeout(self.timeout, Box::pin(self.look_up(question))).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => Err(Failure::TimedOut),
        }
    }

    async fn look_up(self: &Arc<Self>, question: &Question) -> Outcome {
        let mut name = Name::from_ascii(&*question.name).map_err(|_| Failure::NoRecords)?;
        if self.is_absolute {
            name.set_fqdn(true);
        }
        match question.records {
            Records::Addresses => self.host(&name).await,
            Records::Services => self.services(&name).await?.ok_or(Failure::NoRecords),
            Records::ServicesOrAddresses => match self.services(&name).await? {
                Some(answer) => Ok(answer),
                None => self.host(&name).await,
            },
        }
    }

    async fn host(&self, name: &Name) -> Outcome {
        let addresses = self.addresses(name).await?;
        let found = addresses.reply.records.into_iter();
        let found = found.map(|address| Found { address, service: None }).collect();
        Ok(answer(found, addresses.reply.ttl, addresses.is_partial))
    }

    /// SRV records, and the addresses of their targets; `None` if there are no such records.
    async fn services(self: &Arc<Self>, name: &Name) -> Result<Option<Answer>, Failure> {
        let reply = match self.records(name, RecordType::SRV, service).await {
            Err(Failure::NoRecords) => return Ok(None),
            reply => reply?,
        };
        let Reply { mut records, mut ttl } = reply;
        // A service without a target, RFC 2782's `.`, is decidedly not there.
        records.retain(|service| !service.target.is_root());
        records.sort_by_key(|service| service.priority);
        let is_cut = records.len() > SERVICES_MAX;
        records.truncate(SERVICES_MAX);
        let mut targets: Vec<_> = records.iter().map(|service| service.target.clone()).collect();
        targets.sort();
        targets.dedup();
        let (mut found, mut is_partial, mut worst) = (Vec::new(), false, Failure::NoRecords);
        for (target, outcome) in self.addresses_of(&targets).await {
            match outcome {
                Ok(addresses) => {
                    ttl = ttl.min(addresses.reply.ttl);
                    is_partial |= addresses.is_partial;
                    let here = records.iter().filter(|service| service.target == target);
                    found.extend(here.flat_map(|service| nodes_of(service, &addresses.reply)));
                }
                // Said to have no address, which is an answer.
                Err(Failure::NoRecords) => {}
                Err(failure) => (is_partial, worst) = (true, worst.max(failure)),
            }
        }
        if found.is_empty() {
            return Err(worst);
        }
        let answer = answer(found, ttl, is_partial);
        Ok(Some(Answer { is_cut: answer.is_cut || is_cut, ..answer }))
    }

    /// Asks about several names, some of them at a time.
    async fn addresses_of(
        self: &Arc<Self>,
        names: &[Name],
    ) -> Vec<(Name, Result<Addresses, Failure>)> {
        let mut outcomes = Vec::with_capacity(names.len());
        for some in names.chunks(TARGETS_AT_ONCE) {
            let mut asked = JoinSet::new();
            for name in some.iter().cloned() {
                let client = Arc::clone(self);
                asked.spawn(async move {
                    let outcome = client.addresses(&name).await;
                    (name, outcome)
                });
            }
            outcomes.extend(asked.join_all().await);
        }
        outcomes
    }

    /// The addresses of one name, of the families that count.
    async fn addresses(&self, name: &Name) -> Result<Addresses, Failure> {
        let of = |kind| self.of_family(name, kind);
        let whole = |reply| Addresses { reply, is_partial: false };
        match self.family {
            Family::Ipv4 => of(RecordType::A).await.map(whole),
            Family::Ipv6 => of(RecordType::AAAA).await.map(whole),
            Family::PreferIpv4 => match of(RecordType::A).await {
                Err(Failure::NoRecords) => of(RecordType::AAAA).await.map(whole),
                outcome => outcome.map(whole),
            },
            Family::PreferIpv6 => match of(RecordType::AAAA).await {
                Err(Failure::NoRecords) => of(RecordType::A).await.map(whole),
                outcome => outcome.map(whole),
            },
            Family::Both => {
                let (v4, v6) = tokio::join!(of(RecordType::A), of(RecordType::AAAA));
                both(v4, v6)
            }
        }
    }

    async fn of_family(&self, name: &Name, kind: RecordType) -> Result<Reply<IpAddr>, Failure> {
        let in_file = |kind| self.hosts.lookup_static_host(&Query::query(name.clone(), kind));
        let mut reply = match in_file(kind) {
            Some(lookup) => Reply::of(&lookup, RData::ip_addr),
            // It is there with addresses of the other family.
            None if [RecordType::A, RecordType::AAAA]
                .into_iter()
                .any(|it| in_file(it).is_some()) =>
            {
                return Err(Failure::NoRecords);
            }
            None => self.records(name, kind, RData::ip_addr).await?,
        };
        reply.records.iter_mut().for_each(|address| *address = address.to_canonical());
        reply.records.retain(|address| {
            let is_broadcast = *address == IpAddr::V4(Ipv4Addr::BROADCAST);
            !address.is_unspecified() && !address.is_multicast() && !is_broadcast
        });
        if reply.records.is_empty() { Err(Failure::NoRecords) } else { Ok(reply) }
    }

    async fn records<T>(
        &self,
        name: &Name,
        kind: RecordType,
        read: impl Fn(&RData) -> Option<T>,
    ) -> Result<Reply<T>, Failure> {
        match self.resolver.lookup(name.clone(), kind).await {
            Ok(lookup) => {
                let reply = Reply::of(&lookup, read);
                if reply.records.is_empty() { Err(Failure::NoRecords) } else { Ok(reply) }
            }
            Err(error) => {
                tracing::debug!(%name, %kind, %error, "name not resolved");
                Err(failure(&error))
            }
        }
    }
}

/// What one question of the protocol was answered with.
struct Reply<T> {
    records: Vec<T>,
    /// Seconds.
    ttl: u32,
}

struct Addresses {
    reply: Reply<IpAddr>,
    /// One family could not be had.
    is_partial: bool,
}

impl<T> Reply<T> {
    /// The records that are about the name asked for; where it is an alias, those at its end, which
    /// are all that the lookup has then.
    fn of(lookup: &Lookup, read: impl Fn(&RData) -> Option<T>) -> Self {
        let name = lookup.query().name();
        let is_own = |record: &&Record| record.name == *name;
        let is_alias = !lookup.answers().iter().any(|record| is_own(&record));
        let (mut records, mut ttl) = (Vec::new(), MAX_TTL);
        for record in lookup.answers().iter().filter(|record| is_alias || is_own(record)) {
            if let Some(read) = read(&record.data) {
                records.push(read);
                ttl = ttl.min(record.ttl);
            }
        }
        Self { records, ttl }
    }
}

fn both(
    v4: Result<Reply<IpAddr>, Failure>,
    v6: Result<Reply<IpAddr>, Failure>,
) -> Result<Addresses, Failure> {
    match (v4, v6) {
        (Ok(mut v4), Ok(v6)) => {
            v4.records.extend(v6.records);
            let reply = Reply { ttl: v4.ttl.min(v6.ttl), ..v4 };
            Ok(Addresses { reply, is_partial: false })
        }
        (Ok(reply), Err(failure)) | (Err(failure), Ok(reply)) => {
            Ok(Addresses { reply, is_partial: failure != Failure::NoRecords })
        }
        (Err(one), Err(other)) => Err(one.max(other)),
    }
}

fn service(data: &RData) -> Option<SRV> {
    let RData::SRV(service) = data else { return None };
    Some(service.clone())
}

fn nodes_of(service: &SRV, addresses: &Reply<IpAddr>) -> impl Iterator<Item = Found> {
    let SRV { priority, weight, port, ref target, .. } = *service;
    let target = target.to_ascii().to_ascii_lowercase().into();
    let service = Service { target, port, weight, priority };
    addresses
        .records
        .iter()
        .map(move |address| Found { address: *address, service: Some(service.clone()) })
}

/// In an order that says nothing, so that a server may give its records in any.
fn answer(mut found: Vec<Found>, ttl: u32, is_partial: bool) -> Answer {
    let priority = |found: &Found| found.service.as_ref().map_or(0, |service| service.priority);
    found.sort_by(|one, other| priority(one).cmp(&priority(other)).then_with(|| one.cmp(other)));
    let mut seen = HashSet::new();
    found.retain(|found| {
        seen.insert((found.address, found.service.as_ref().map(|service| service.port)))
    });
    let is_cut = found.len() > FOUND_MAX;
    found.truncate(FOUND_MAX);
    // What is missing is asked for again soon.
    let seconds = if is_partial { 0 } else { ttl };
    Answer { found, ttl: Duration::from_secs(seconds.into()), is_partial, is_cut }
}

fn failure(error: &NetError) -> Failure {
    if error.is_no_records_found() {
        Failure::NoRecords
    } else if matches!(error, NetError::Timeout) {
        Failure::TimedOut
    } else {
        Failure::Refused
    }
}

/// They are asked for names as they stand.
fn of_nameservers(addresses: &[SocketAddr]) -> ResolverConfig {
    let nameserver = |address: &SocketAddr| {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
        let connections = connections.map(|mut connection| {
            connection.port = address.port();
            connection
        });
        NameServerConfig::new(address.ip(), true, connections.into())
    };
    ResolverConfig::from_name_servers(addresses.iter().map(nameserver).collect())
}

#[cfg(test)]
mod tests;
