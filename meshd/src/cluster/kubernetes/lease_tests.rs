//! A holder before a server: when it ends.

use std::time::Duration;

use kube::Config;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// One of those who want a lease, before a server that answers everything so.
async fn before_a_server(code: u16, body: &'static str) -> Leadership {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _length = stream.read(&mut [0; 4_096]).await.unwrap();
            let head = format!("HTTP/1.1 {code} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            stream.write_all((head + body).as_bytes()).await.unwrap();
        }
    });
    let client = Client::try_from(Config::new(url.parse().unwrap())).unwrap();
    Leadership::new(&client, "weft-system", "weft-controller", "us".to_owned())
}

/// Why the holder ends with its first renewal.
async fn ends_at_once(leadership: &Leadership, tenure: Tenure) -> String {
    // a second renewal would come later than this
    let ended = tokio::time::timeout(RETRY, leadership.hold(tenure)).await;
    format!("{:#}", ended.expect("it ends at once"))
}

#[tokio::test]
async fn who_has_lost_the_lease_to_another_ends_at_once() {
    for (body, why) in [
        (r#"{"metadata":{"name":"weft-controller"},"spec":{"holderIdentity":"another"}}"#, "another holds it now"),
        (r#"{"metadata":{"name":"weft-controller"},"spec":{"holderIdentity":""}}"#, "somebody gave it back"),
    ] {
        let leadership = before_a_server(200, body).await;
        let said = ends_at_once(&leadership, Tenure::asked_at(Instant::now())).await;
        assert_eq!(said, format!("the lease was lost: {why}"));
    }
}

#[tokio::test]
async fn who_cannot_renew_ends_when_the_lease_was_asked_for_too_long_ago_and_not_before() {
    let refusal = r#"{"kind":"Status","status":"Failure","code":500,"reason":"InternalError","message":"no"}"#;
    let leadership = before_a_server(500, refusal).await;
    // what came between the acquisition and the first renewal counts
    let long_ago = Instant::now().checked_sub(RENEW_DEADLINE + Duration::from_millis(1)).unwrap();
    let said = ends_at_once(&leadership, Tenure::asked_at(long_ago)).await;
    assert!(said.starts_with("the lease was lost: cannot read the lease"), "{said}");
    let goes_on = tokio::time::timeout(RETRY / 2, leadership.hold(Tenure::asked_at(Instant::now()))).await;
    assert!(goes_on.is_err(), "one refusal ends it: {goes_on:?}");
}
