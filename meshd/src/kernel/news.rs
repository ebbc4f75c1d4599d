//! Tells that a link or an address of this node changed. What it is now has to be looked at: a notification can be lost, and then
//! the next one says so (rtnetlink(7), netlink(7) `ENOBUFS`).

use std::time::Duration;

use anyhow::Context as _;
use futures::FutureExt as _;
use rtnetlink::MulticastGroup;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket};
use tokio::time::{Instant, sleep_until};

/// What is listened to. Routes are not: a pod or a Service more is no news here.
const GROUPS: [MulticastGroup; 3] = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
/// Changes come in trains (a link that comes up, a pod that starts): one look for all of so long.
const TRAIN: Duration = Duration::from_millis(100);
/// Notifications that are read at once; what is left begins the next train.
const READS_MAX: usize = 4_096;

/// Notifications of links and addresses, in the network namespace that it was opened in.
pub(super) struct News {
    socket: TokioSocket,
    /// When the train that has begun is over.
    due: Option<Instant>,
}

impl News {
    pub(super) fn open() -> anyhow::Result<Self> {
        let open = || -> std::io::Result<TokioSocket> {
            let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
            socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
            for group in GROUPS {
                socket.socket_mut().add_membership(group as u32)?;
            }
            Ok(socket)
        };
        let socket = open().context("cannot listen to changes of links and addresses")?;
        Ok(Self { socket, due: None })
    }

    /// Waits until something changed and the train of changes is over. Nothing is lost where the caller stops waiting.
    pub(super) async fn come(&mut self) {
        let due = match self.due {
            Some(due) => due,
            None => {
                self.read().await;
                *self.due.insert(Instant::now() + TRAIN)
            }
        };
        sleep_until(due).await;
        self.due = None;
        let is_more = |_: &usize| self.read().now_or_never().is_some();
        let _count = (0..READS_MAX).take_while(is_more).count();
    }

    /// Takes one notification, whatever it says; that some were lost is news as well.
    async fn read(&self) {
        // the rest of it is cut off
        let mut first = [0; 16];
        if let Err(error) = self.socket.recv(&mut first.as_mut_slice()).await {
            tracing::debug!(%error, "Changes of links or addresses were not told");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use linux::netns::Netns;
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn ip(arguments: &[&str]) {
        assert!(Command::new("ip").args(arguments).status().expect("ip runs").success(), "{arguments:?}");
    }

    async fn listen() {
        let mut news = News::open().expect("a socket");
        assert!(timeout(TRAIN * 2, news.come()).await.is_err(), "nothing has changed");
        for change in [
            &["link", "add", "one", "type", "veth", "peer", "name", "other"][..],
            &["address", "add", "192.0.2.1/24", "dev", "one"],
            &["address", "add", "2001:db8::1/64", "dev", "one", "nodad"],
            &["address", "del", "192.0.2.1/24", "dev", "one"],
            &["link", "set", "one", "mtu", "1400"],
        ] {
            ip(change);
            // whoever stops waiting in the middle of it loses nothing
            let _stopped = timeout(TRAIN / 2, news.come()).await;
            timeout(SOON, news.come()).await.unwrap_or_else(|_| panic!("{change:?} is not told"));
        }
        assert!(timeout(TRAIN * 2, news.come()).await.is_err(), "a change is told once");
        // the kernel allows no less than it needs for one or two
        news.socket.socket_mut().set_rx_buf_sz(0_u32).expect("the buffer shrinks");
        for mtu in 1300..1330 {
            ip(&["link", "set", "one", "mtu", &mtu.to_string()]);
        }
        timeout(SOON, news.come()).await.expect("something changed");
        assert!(timeout(TRAIN * 2, news.come()).await.is_err(), "what was lost is told once");
        ip(&["link", "del", "one"]);
        timeout(SOON, news.come()).await.expect("it is told after some were lost");
    }

    #[test]
    fn every_change_is_told_once_also_where_some_were_lost() {
        let netns = Netns::create().expect("these tests need root: run them under `unshare -rnm`");
        let run = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(listen());
        };
        netns.within(run).expect("a namespace");
    }
}
