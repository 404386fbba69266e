use super::*;

fn ip(last: u8) -> IpAddr {
    [10, 0, 0, last].into()
}

fn service(last: u8, target: &str, priority: u16, port: u16) -> Found {
    let service = Service { target: target.into(), port, weight: 1, priority };
    Found { address: ip(last), service: Some(service) }
}

#[tokio::test]
async fn names_of_this_host_are_not_asked_for() {
    // Nobody listens there, and nobody is asked.
    let nameservers = vec![SocketAddr::from(([127, 0, 0, 1], 9))];
    let settings = Resolver { nameservers, ..Resolver::default() };
    let mut client = Client::new(&settings).unwrap();
    let file = "10.0.0.2 App.internal app # comment\n10.0.0.1 app\n0.0.0.0 blocked\n::1 six\n";
    client.hosts = Hosts::default();
    client.hosts.read_hosts_conf(file.as_bytes()).unwrap();
    client.family = Family::PreferIpv4;
    let client = Arc::new(client);
    let ask = async |name: &str| {
        let question = Question { name: name.into(), records: Records::Addresses };
        let outcome = client.ask(&question).await?;
        Ok(outcome.found.into_iter().map(|found| found.address).collect::<Vec<_>>())
    };
    assert_eq!(ask("app").await, Ok(vec![ip(1), ip(2)]));
    assert_eq!(ask("app.internal.").await, Ok(vec![ip(2)]));
    assert_eq!(ask("blocked").await, Err(Failure::NoRecords));
    assert_eq!(ask("six").await, Ok(vec![IpAddr::from(std::net::Ipv6Addr::LOCALHOST)]));
}

#[test]
fn an_answer_is_the_same_in_any_order_and_has_each_node_once() {
    let one = [
        service(2, "a", 0, 80),
        service(1, "b", 10, 80),
        service(1, "a", 10, 81),
        service(1, "c", 20, 80),
    ];
    let mut other = one.clone();
    other.reverse();
    let answers = [one.clone(), other].map(|found| answer(found.into(), 7, false));
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0].found, [one[0].clone(), one[2].clone(), one[1].clone()]);
    assert_eq!(answers[0].ttl, Duration::from_secs(7));
    assert_eq!(answer(one.into(), 7, true).ttl, Duration::ZERO, "asked for again soon");
}

#[test]
fn of_two_families_one_may_be_missing() {
    use Failure::{NoRecords, Refused, TimedOut};
    let reply = |last, ttl| Ok(Reply { records: vec![ip(last)], ttl });
    let check = |v4, v6, expected: Result<(&[u8], u32, bool), Failure>| {
        let found =
            both(v4, v6).map(|found| (found.reply.records, found.reply.ttl, found.is_partial));
        let expected = expected.map(|(lasts, ttl, is_partial)| {
            (lasts.iter().copied().map(ip).collect::<Vec<_>>(), ttl, is_partial)
        });
        assert_eq!(found, expected);
    };
    check(reply(1, 9), reply(2, 5), Ok((&[1, 2], 5, false)));
    check(reply(1, 9), Err(NoRecords), Ok((&[1], 9, false)));
    check(Err(TimedOut), reply(2, 5), Ok((&[2], 5, true)));
    check(Err(NoRecords), Err(Refused), Err(Refused));
    check(Err(NoRecords), Err(NoRecords), Err(NoRecords));
}
