//! The built-in echo server: answers TCP and UDP on both families with what it was sent (RFC 862), and packets of IP
//! protocol 253 (RFC 3692, for experiments) that begin with `?`. ICMP is the kernel's.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context as _, bail};
use socket2::{Domain, Protocol, Socket, Type};

use super::probe::wire::{raw_payload, raw_socket};
use crate::screen;

/// The IP protocol that is answered without ports.
const RAW_PROTOCOL: u8 = 253;

/// The echo port of RFC 862.
const ECHO_PORT: u16 = 7;
/// Where it listens when no port is given.
const DEFAULT_PORT: u16 = 8080;
/// How many connections are answered at a time; more are closed at once.
const CONNECTIONS_MAX: usize = 1024;

/// Serves until it is killed.
///
/// # Errors
/// A port is taken.
pub(super) fn run(ports: &[u16]) -> anyhow::Result<()> {
    let mut all = if ports.is_empty() { vec![DEFAULT_PORT] } else { ports.to_vec() };
    if !all.contains(&ECHO_PORT) {
        all.push(ECHO_PORT);
    }
    let mut threads = Vec::new();
    let connections = Arc::new(AtomicUsize::new(0));
    for is_v4 in [true, false] {
        match raw_socket(is_v4, RAW_PROTOCOL) {
            Ok(socket) => threads.push(thread::spawn(move || serve_raw(&socket, is_v4))),
            Err(error) => screen::note(&format!("echo: without protocol {RAW_PROTOCOL}: {error:#}")),
        }
    }
    for port in &all {
        let port = *port;
        let tcp = TcpListener::from(listen(Type::STREAM, Protocol::TCP, port)?);
        let udp = UdpSocket::from(listen(Type::DGRAM, Protocol::UDP, port)?);
        let connections = Arc::clone(&connections);
        threads.push(thread::spawn(move || serve_tcp(&tcp, &connections)));
        let own = all.clone();
        threads.push(thread::spawn(move || serve_udp(&udp, &own)));
        screen::note(&format!("echo: TCP and UDP port {port}"));
    }
    for thread in threads {
        if thread.join().is_err() {
            bail!("a port's thread ended");
        }
    }
    Ok(())
}

/// A socket on the port, for both families where the kernel has IPv6.
fn listen(kind: Type, protocol: Protocol, port: u16) -> anyhow::Result<Socket> {
    let bind = |domain: Domain, address: SocketAddr| -> std::io::Result<Socket> {
        let socket = Socket::new(domain, kind, Some(protocol))?;
        if domain == Domain::IPV6 {
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(kind == Type::STREAM)?;
        socket.bind(&address.into())?;
        if kind == Type::STREAM {
            socket.listen(1024)?;
        }
        Ok(socket)
    };
    bind(Domain::IPV6, (Ipv6Addr::UNSPECIFIED, port).into())
        .or_else(|_| bind(Domain::IPV4, (Ipv4Addr::UNSPECIFIED, port).into()))
        .with_context(|| format!("cannot listen on port {port}"))
}

fn serve_tcp(listener: &TcpListener, connections: &Arc<AtomicUsize>) {
    for stream in listener.incoming().flatten() {
        if connections.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
            connections.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let count = Arc::clone(connections);
        let serve = move || {
            let _peer_went_away = answer(stream);
            count.fetch_sub(1, Ordering::Relaxed);
        };
        if thread::Builder::new().stack_size(192 * 1024).spawn(serve).is_err() {
            connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = [0; 64 * 1024];
    loop {
        let read = stream.read(&mut buffer)?;
        match buffer.get(..read) {
            Some(bytes) if read > 0 => stream.write_all(bytes)?,
            _ => return Ok(()),
        }
    }
}

/// Datagrams from a port that is an echo server's itself are left alone, or two of them would never stop.
fn serve_udp(socket: &UdpSocket, own: &[u16]) {
    let mut buffer = [0; 64 * 1024];
    loop {
        // an ICMP error for an earlier answer shows up here: the next datagram is another matter
        let Ok((read, from)) = socket.recv_from(&mut buffer) else { continue };
        if let Some(bytes) = buffer.get(..read).filter(|_| !own.contains(&from.port())) {
            let _peer_went_away = socket.send_to(bytes, from);
        }
    }
}

/// A question is `?` and anything, its answer `!` and the same: answers are not answered.
fn serve_raw(socket: &UdpSocket, is_v4: bool) {
    let mut buffer = [0; 64 * 1024];
    loop {
        let Ok((read, from)) = socket.recv_from(&mut buffer) else { continue };
        let packet = buffer.get(..read).unwrap_or_default();
        if let Some(rest) = raw_payload(is_v4, packet).strip_prefix(b"?") {
            let answer = [b"!", rest].concat();
            let _peer_went_away = socket.send_to(&answer, SocketAddr::new(from.ip(), 0));
        }
    }
}
