//! The data path alone, between two fixed keys: what is measured against other WireGuard programs.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;

use anyhow::{Context as _, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use identity::SpiffeId;
use plan::{PeerName, engine_suite};
use wg::{LocalConfig, LocalKey, PeerConfig, PresharedKey, PublicKey, StaticSecret};

use crate::config::TunnelConfig;
use crate::datapath::{self, Order};

/// The inner MTU: 1500 less IPv6, UDP and WireGuard headers.
const MTU: usize = 1420;

/// Runs until it is killed. Addresses, MTU and state of the device are whoever's who started it.
pub(crate) fn run(config: &TunnelConfig) -> anyhow::Result<()> {
    let secret = StaticSecret::from(read_key(&config.key_file)?);
    let here: SpiffeId = "spiffe://tunnel/here".parse()?;
    let there = PeerName { node: "there".parse()?, identity: "spiffe://tunnel/there".parse()? };
    let path = datapath::Config {
        tun: config.tun.clone(),
        port: config.listen_port,
        mark: 0,
        mtu: MTU,
        offload: !config.no_offload,
        class: config.dscp,
        // the other end may be a stock peer
        probes: false,
        threads: config.data_threads,
    };
    let (data, mut events) = datapath::spawn(&path)?;
    let keys = vec![LocalKey { epoch: 1, secret, suite: engine_suite(config.data_cipher) }];
    let local = LocalConfig { keys, addresses: config.address.iter().copied().collect() };
    data.send(Order::SetLocals(BTreeMap::from([(here, local)])))?;
    data.send(Order::SetPeers(peers(config, there)?))?;
    while events.blocking_recv().is_some() {}
    thread::park();
    Ok(())
}

/// The peer, and as many others that never speak as are asked for.
fn peers(config: &TunnelConfig, there: PeerName) -> anyhow::Result<BTreeMap<PeerName, PeerConfig>> {
    let key = decode(&config.peer_key).with_context(|| format!("the peer's key `{}`", config.peer_key))?;
    let peer = |key: PublicKey, endpoints: Vec<SocketAddr>| PeerConfig {
        keys: BTreeMap::from([(1, key)]),
        endpoints,
        allowed_ips: Vec::new(),
        suites: BTreeMap::from([(1, engine_suite(config.data_cipher))]),
        preshared_key: None,
    };
    let mut all = BTreeMap::new();
    let mut main = peer(PublicKey::from(key), config.endpoint.into_iter().collect());
    main.preshared_key = config.preshared_key_file.as_deref().map(read_key).transpose()?.map(PresharedKey::new);
    main.allowed_ips = config.peer_address.iter().map(|address| (*address).into()).collect();
    all.insert(there, main);
    for n in 1..=config.idle_peers {
        let mut secret = [0x55; 32];
        secret.iter_mut().zip(n.to_be_bytes()).for_each(|(to, from)| *to = from);
        let name = PeerName { node: format!("idle-{n}").parse()?, identity: "spiffe://tunnel/idle".parse()? };
        let mut idle = peer(PublicKey::from(&StaticSecret::from(secret)), Vec::new());
        let [_, _, high, low] = n.to_be_bytes();
        idle.allowed_ips = vec![std::net::IpAddr::from([10, 77, high, low]).into()];
        all.insert(name, idle);
    }
    Ok(all)
}

fn read_key(path: &Path) -> anyhow::Result<[u8; 32]> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the key in {}", path.display()))?;
    decode(text.trim()).with_context(|| format!("the key in {}", path.display()))
}

fn decode(text: &str) -> anyhow::Result<[u8; 32]> {
    let bytes = STANDARD.decode(text).context("is not base64")?;
    bytes.try_into().map_err(|_length| anyhow!("is not of 32 bytes: `wg genkey` and `wg pubkey` make keys"))
}
