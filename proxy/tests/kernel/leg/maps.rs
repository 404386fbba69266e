//! What is in the maps of a proxy, beside what it says itself.

use aya::maps::{Array, HashMap, Map, MapData, SockHash};
use proxy::test_support::TestProxy;
use proxy_common::{
    addr::Destination,
    bypass::Client,
    leg::{Key, Leg, Received},
    limits::{LEGS_MAX, REMOTE_CLIENTS_MAX},
    names,
};

/// Maps of one proxy, open.
pub(super) struct Maps {
    legs: HashMap<MapData, Key, Leg>,
    received: HashMap<MapData, u64, Received>,
    addresses: HashMap<MapData, Destination, u32>,
    sockets: SockHash<MapData, u64>,
    remote_clients: SockHash<MapData, u64>,
    clients: Array<MapData, Client>,
}

impl Maps {
    pub(super) fn of(proxy: &TestProxy) -> Maps {
        let status = proxy.admin("/bpf/status").text();
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        let map = |name: &str| {
            let maps = status["maps"].as_array().expect("a list");
            let map = maps.iter().find(|map| map["name"] == name).expect(name);
            MapData::from_id(map["id"].as_u64().expect("an id") as u32).expect(name)
        };
        Maps {
            legs: Map::HashMap(map(names::LEGS)).try_into().expect("a hash"),
            received: Map::HashMap(map(names::RECEIVED)).try_into().expect("a hash"),
            addresses: Map::HashMap(map(names::OWN_ADDRESSES)).try_into().expect("a hash"),
            sockets: Map::SockHash(map(names::SOCKETS)).try_into().expect("a hash of sockets"),
            remote_clients: Map::SockHash(map(names::REMOTE_CLIENTS))
                .try_into()
                .expect("a hash of sockets"),
            clients: Map::Array(map(names::CLIENTS)).try_into().expect("an array"),
        }
    }

    /// Entries of all that is kept for connections, by map.
    pub(super) fn entries(&self) -> [(&'static str, usize); 4] {
        [
            (names::LEGS, self.legs.keys().flatten().count()),
            (names::RECEIVED, self.received.keys().flatten().count()),
            (names::SOCKETS, self.sockets.keys().flatten().count()),
            (names::REMOTE_CLIENTS, self.remote_clients.keys().flatten().count()),
        ]
    }

    /// The last of the places that connections have now. As free ones are taken again before fresh ones,
    /// no more than that were ever taken at a time, but for those given back a moment before.
    pub(super) fn last_place(&self) -> u32 {
        let received = self.received.iter().flatten();
        received.map(|(_, received)| received.place).max().unwrap_or_default()
    }

    /// How many places clients on other hosts have ever had.
    pub(super) fn remote_places(&self) -> usize {
        let places = 2 * LEGS_MAX..2 * LEGS_MAX + REMOTE_CLIENTS_MAX;
        places.filter(|place| self.clients.get(place, 0).expect("a place").own != 0).count()
    }

    pub(super) fn leads_to_us(&self, address: std::net::SocketAddr) -> bool {
        self.addresses.get(&Destination::from(address), 0).is_ok()
    }
}
