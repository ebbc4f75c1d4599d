//! Kinds of others that may not be installed. That one is missing is believed of its list alone; whether it has come is seen by what
//! the server serves, which is one question for all of them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::object::{KindName, Raw};
use super::watch::{OPTIONAL_WAIT_MAX, Said, Watch, spread};

/// What the API server serves, asked for when somebody wants to know.
#[derive(Clone)]
pub(super) struct Served {
    client: Client,
    known: Arc<Mutex<Option<Answer>>>,
    /// How long who waits for a kind waits before the next look, at most; at least the half of it.
    every: Duration,
}

struct Answer {
    at: Instant,
    /// `group/version`.
    groups: BTreeSet<String>,
}

impl Served {
    pub(super) fn new(client: &Client) -> Self {
        Self::looked_at(client, OPTIONAL_WAIT_MAX)
    }

    pub(super) fn looked_at(client: &Client, every: Duration) -> Self {
        Self { client: client.clone(), known: Arc::default(), every }
    }

    /// Whether a list of the kind is worth asking for. Of several that want to know, one asks the server.
    async fn may_have(&self, kind: &KindName) -> bool {
        let group = format!("{}/{}", kind.group, kind.version);
        let mut known = self.known.lock().await;
        if known.as_ref().is_none_or(|known| known.at.elapsed() >= self.every / 2) {
            let groups = match self.client.list_api_groups().await {
                Ok(all) => all.groups.into_iter().flat_map(|group| group.versions).map(|of| of.group_version).collect(),
                // who may not know what there is asks for each
                Err(kube::Error::Api(status)) if status.is_forbidden() => return true,
                // the watches of other kinds tell of that
                Err(_) => return false,
            };
            *known = Some(Answer { at: Instant::now(), groups });
        }
        known.as_ref().is_some_and(|known| known.groups.contains(&group))
    }
}

/// The watch of a kind that may not be there.
pub(super) struct Optional {
    kind: KindName,
    served: Served,
    /// `None` while the kind is missing.
    watch: Option<Watch>,
}

impl Optional {
    pub(super) fn new(kind: KindName, served: &Served) -> Self {
        let mut optional = Self { kind, served: served.clone(), watch: None };
        optional.begin();
        optional
    }

    fn begin(&mut self) {
        let api: Api<Raw> = Api::all_with(self.served.client.clone(), &self.kind.resource());
        self.watch = Some(Watch::new(api, OPTIONAL_WAIT_MAX));
    }

    /// What it says next; once that the kind is missing, and then nothing until it has come.
    pub(super) async fn next(mut self) -> Option<(Said, Self)> {
        loop {
            if let Some(watch) = self.watch.take() {
                let (said, watch) = watch.next().await?;
                self.watch = (!is_missing(&said)).then_some(watch);
                return Some((said, self));
            }
            tokio::time::sleep(spread(self.served.every)).await;
            if self.served.may_have(&self.kind).await {
                self.begin();
            }
        }
    }
}

/// The server does not have the kind, or no longer.
fn is_missing(said: &Said) -> bool {
    matches!(
        said,
        Said::Result(Err(
            watcher::Error::InitialListFailed(kube::Error::Api(status))
                | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        )) if status.code == 404
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex as Shared;

    use kube::Config;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::super::object::{ADMINISTRATORS, WATCHED};
    use super::*;

    /// A server that has no optional kind until it was asked three times what it has, and then one; what is asked of it.
    async fn server() -> (Client, Arc<Shared<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Shared::new(Vec::new()));
        let log = Arc::clone(&asked);
        tokio::spawn(async move {
            let mut looks = 0;
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4_096];
                let length = stream.read(&mut request).await.unwrap();
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                let path = request.split([' ', '?']).nth(1).unwrap().to_owned();
                looks += usize::from(path == "/apis");
                let has_come = looks >= 3;
                let one = r#"{"name":"security.istio.io","versions":[{"groupVersion":"security.istio.io/v1","version":"v1"}]}"#;
                let (code, body) = match path.as_str() {
                    "/apis" => (200, format!("{{\"groups\":[{}]}}", if has_come { one } else { "" })),
                    path if has_come && path.contains("istio") => {
                        (200, r#"{"metadata":{"resourceVersion":"7"},"items":[]}"#.to_owned())
                    }
                    _ => (404, r#"{"kind":"Status","status":"Failure","code":404,"reason":"NotFound"}"#.to_owned()),
                };
                log.lock().unwrap().push(path);
                let head = format!("HTTP/1.1 {code} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                stream.write_all((head + &body).as_bytes()).await.unwrap();
            }
        });
        (Client::try_from(Config::new(url.parse().unwrap())).unwrap(), asked)
    }

    #[tokio::test]
    async fn kinds_that_are_missing_are_listed_once_until_the_server_has_their_group() {
        let (client, asked) = server().await;
        let served = Served::looked_at(&client, Duration::from_secs(2));
        let follow = |kind: &KindName| {
            let mut optional = Optional::new(*kind, &served);
            async move {
                loop {
                    let (said, next) = optional.next().await.unwrap();
                    if matches!(said, Said::Result(Ok(watcher::Event::InitDone))) {
                        return;
                    }
                    optional = next;
                }
            }
        };
        let all = WATCHED.iter().filter(|kind| kind.optional).map(|kind| Box::pin(follow(kind)));
        let first = futures::future::select_all(all);
        tokio::time::timeout(Duration::from_secs(60), first).await.expect("one has come");
        let asked = asked.lock().unwrap();
        let lists = |what: &str| asked.iter().filter(|path| path.contains(what)).count();
        assert_eq!(lists(ADMINISTRATORS), 3, "each of its kinds once: {asked:?}");
        assert_eq!(lists("istio"), 2, "once, and once it has come: {asked:?}");
    }

    #[tokio::test]
    async fn who_looks_for_several_kinds_asks_once() {
        let (client, asked) = server().await;
        let served = Served::looked_at(&client, Duration::from_secs(1_000));
        let all = WATCHED.iter().filter(|kind| kind.optional).map(|kind| served.may_have(kind));
        assert_eq!(futures::future::join_all(all).await, [false; 4]);
        assert_eq!(*asked.lock().unwrap(), ["/apis"]);
    }
}
