//! Metrics by HTTP: `GET /metrics` and nothing else, for whoever scrapes.
//!
//! The answer is made by the daemon's loop, as that of an admin question is; a loop that does not answer is no success.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::line_socket::Asked;

/// Those who ask at once; more wait in the kernel's accept queue.
const CONVERSATIONS_MAX: usize = 8;
/// Longest request, in bytes.
const REQUEST_MAX: usize = 8 << 10;
/// How long somebody may take to ask or to take the answer, and the loop to give it.
const PATIENCE: Duration = Duration::from_secs(5);
/// A pause after a connection that could not be taken: out of files, most of the time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Tells metrics on an address until the daemon ends.
///
/// # Errors
/// The address cannot be bound; the message names it.
pub(crate) async fn serve_metrics(address: SocketAddr, asked: mpsc::Sender<Asked>) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address).await;
    let listener =
        listener.with_context(|| format!("cannot tell metrics on {address}: choose another --metrics-address"))?;
    tokio::spawn(async move {
        let room = Arc::new(Semaphore::new(CONVERSATIONS_MAX));
        loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let asked = asked.clone();
            tokio::spawn(async move {
                // whoever is slow or gone is left
                let _left = tokio::time::timeout(PATIENCE * 2, converse(stream, asked)).await;
                drop(permit);
            });
        }
    });
    Ok(())
}

async fn converse(mut stream: TcpStream, asked: mpsc::Sender<Asked>) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut chunk = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let length = stream.read(&mut chunk).await?;
        if length == 0 || request.len() + length > REQUEST_MAX {
            return Ok(());
        }
        request.extend(chunk.iter().take(length));
    }
    let (status, body) = match path(&request) {
        Ok("/metrics") => match tokio::time::timeout(PATIENCE, ask(asked)).await.ok().flatten() {
            Some(text) => ("200 OK", text),
            None => ("503 Service Unavailable", "the daemon does not answer\n".to_owned()),
        },
        Ok(_) => ("404 Not Found", "there is /metrics only\n".to_owned()),
        Err(refusal) => refusal,
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

/// The path of a GET, without its query.
fn path(request: &[u8]) -> Result<&str, (&'static str, String)> {
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = std::str::from_utf8(line).unwrap_or_default().split(' ');
    match (words.next(), words.next()) {
        (Some("GET"), Some(target)) => Ok(target.split('?').next().unwrap_or_default()),
        _ => Err(("405 Method Not Allowed", "GET only\n".to_owned())),
    }
}

async fn ask(asked: mpsc::Sender<Asked>) -> Option<String> {
    let (reply, answer) = oneshot::channel();
    asked.send(Asked { line: br#"{"verb":"metrics"}"#.to_vec(), reply }).await.ok()?;
    let answer: Value = serde_json::from_slice(&answer.await.ok()?).ok()?;
    answer.get("result")?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    async fn get(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn metrics_are_told_to_who_asks_for_them_and_nothing_else_is() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let (send, mut asked) = mpsc::channel::<Asked>(1);
        serve_metrics(free, send.clone()).await.unwrap();
        assert!(serve_metrics(free, send).await.is_err(), "the address is taken");
        let daemon = tokio::spawn(async move {
            let question = asked.recv().await.unwrap();
            assert_eq!(question.line, br#"{"verb":"metrics"}"#);
            question.reply.send(json!({"ok": true, "result": "mesh_ready 1\n"}).to_string().into_bytes()).unwrap();
            asked
        });
        let told = get(free, "GET /metrics?x=1 HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(told.starts_with("HTTP/1.1 200 OK\r\n") && told.ends_with("\r\n\r\nmesh_ready 1\n"), "{told}");
        drop(daemon.await.unwrap());
        let gone = get(free, "GET /metrics HTTP/1.1\r\n\r\n").await;
        assert!(gone.starts_with("HTTP/1.1 503 "), "{gone}");
        assert!(get(free, "GET / HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 404 "));
        assert!(get(free, "POST /metrics HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 405 "));
        assert_eq!(get(free, &"x".repeat(REQUEST_MAX + 1)).await, "", "a request without end is not answered");
    }
}
