//! That the kernel watches over a connection on which nobody speaks.

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use super::*;

/// The timer that the kernel holds for the connection from this port: what it is for (2: a keepalive), and in how many ticks of
/// a hundredth of a second it ends (Linux, `net/ipv4/tcp_ipv4.c`: `get_tcp4_sock`).
fn timer_of(port: u16) -> Option<(u8, u64)> {
    let text = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let line = text.lines().skip(1).find(|line| {
        let local = line.split_whitespace().nth(1).unwrap();
        local.ends_with(&format!(":{port:04X}"))
    })?;
    let (kind, ticks) = line.split_whitespace().nth(5)?.split_once(':')?;
    Some((u8::from_str_radix(kind, 16).ok()?, u64::from_str_radix(ticks, 16).ok()?))
}

#[tokio::test]
async fn mf_05_a_connection_on_which_nothing_is_said_is_tried_by_the_kernel() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let nodes: Api<Node> = Api::all(client(Config::new(url.parse().unwrap())).unwrap());
    let asking = tokio::spawn(async move { nodes.get_opt("n1").await.map(drop) });
    let (mut stream, peer) = listener.accept().await.unwrap();
    let mut request = [0; 1_024];
    assert!(stream.read(&mut request).await.unwrap() > 0, "it asks, and gets no answer");
    let watched = async {
        // for a moment the timer is that of the request, which waits for its acknowledgement
        loop {
            if let Some((2, ticks)) = timer_of(peer.port()) {
                return ticks;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let ticks = tokio::time::timeout(Duration::from_secs(20), watched).await.expect("there is a timer");
    assert!(ticks <= PROBE_AFTER.as_secs() * 100, "{ticks}");
    asking.abort();
}

#[tokio::test]
async fn a_proxy_in_the_kubeconfig_is_refused_and_not_passed_by() {
    let mut config = Config::new("https://192.0.2.1".parse().unwrap());
    config.proxy_url = Some("http://192.0.2.2:3128".parse().unwrap());
    let error = client(config).map(drop).unwrap_err().to_string();
    assert!(error.contains("proxy-url"), "{error}");
}
