//! Connections to the API server that notice their own death: of a path that drops packets without a word nobody is told.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::ConfigExt as _;
use kube::{Client, Config};
use tower::ServiceBuilder;

/// Longest time to set up a connection; a server behind a dead route is found out then.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest silence of a connection. A server tells every watch where it is about once a minute (bookmarks), but need not: a watch
/// that hears nothing for so long goes on by another request. What hangs and keeps its connections is found out by that.
const READ_TIMEOUT: Duration = Duration::from_secs(90);
/// A connection on which nothing is said is tried after this.
const PROBE_AFTER: Duration = Duration::from_secs(15);
/// Between two tries.
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// A connection is given up when so much was not answered: what was sent (`TCP_USER_TIMEOUT`), or tries since the last word. What is
/// sent while it is silent begins that time anew, so that twice as much is the most.
const GIVE_UP: Duration = Duration::from_secs(30);
const PROBES: u32 = 3;
/// Longest wait for the begin of an answer; an API server gives up a request of its own after as much (`--request-timeout`).
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// A client of the API server of `config`.
///
/// # Errors
/// The configuration names a proxy, or keys or certificates that cannot be used.
pub(super) fn client(config: Config) -> anyhow::Result<Client> {
    client_that_hears(config, READ_TIMEOUT)
}

/// As [`client`], by its longest silence.
pub(super) fn client_that_hears(config: Config, silence: Duration) -> anyhow::Result<Client> {
    ensure!(
        config.proxy_url.is_none(),
        "the kubeconfig names a proxy (proxy-url): meshd asks the API server itself, name one that is reached without"
    );
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_keepalive(Some(PROBE_AFTER));
    tcp.set_keepalive_interval(Some(PROBE_EVERY));
    tcp.set_keepalive_retries(Some(PROBES));
    tcp.set_tcp_user_timeout(Some(GIVE_UP));
    let https = config.rustls_https_connector_with_connector(tcp).context("the keys of the configuration")?;
    let mut connector = TimeoutConnector::new(https);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_read_timeout(Some(silence));
    connector.set_reset_reader_on_write(true);
    let http = hyper_util::client::legacy::Builder::new(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .timeout(ANSWER_TIMEOUT)
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().context("the credentials of the configuration")?)
        .layer(config.extra_headers_layer().context("the headers of the configuration")?)
        .map_err(tower::BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace))
}

#[cfg(test)]
#[path = "connect_tests.rs"]
mod tests;
