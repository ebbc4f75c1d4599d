//! When a watch waits, and when it begins anew.

use std::sync::{Arc, Mutex};

use kube::{Client, Config};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::super::gather::Gather;
use super::super::object::WATCHED;
use super::*;

#[test]
fn mf_05_a_server_that_fails_is_asked_less_and_less_often_until_it_has_not_failed_for_a_while() {
    let mut patience = Patience::new(WAIT_MAX);
    let begin = Instant::now();
    let waits: Vec<_> = (0..8).map(|_| patience.after_failure(begin)).collect();
    assert!(waits.is_sorted_by(|a, b| *b >= *a / 2) && waits[7] >= WAIT_MAX / 2, "{waits:?}");
    assert!(waits.iter().all(|wait| *wait <= WAIT_MAX), "{waits:?}");
    // what succeeds between two failures is no news: a page, a list, a watch that holds for a moment
    assert!(patience.after_failure(begin + WAIT_MAX) >= WAIT_MAX / 2);
    assert!(patience.after_failure(begin + WAIT_MAX * 4 + LIST_SILENCE) <= WAIT_MIN, "then it begins anew");
}

/// A server that gives every list another place, and forgets the first of them; what it was asked for.
async fn forgetful() -> (Api<Raw>, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut version = 6;
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4_096];
            let length = stream.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            let (code, body) = match (request.contains("watch=true"), request.contains("resourceVersion=7")) {
                (false, _) => {
                    version += 1;
                    let metadata = format!("{{\"resourceVersion\":\"{version}\"}}");
                    (200, format!("{{\"metadata\":{metadata},\"items\":[]}}"))
                }
                (true, true) => {
                    (410, r#"{"kind":"Status","status":"Failure","code":410,"reason":"Expired"}"#.to_owned())
                }
                (true, false) => {
                    let object = r#"{"metadata":{"name":"it","resourceVersion":"9"}}"#;
                    (200, format!("{{\"type\":\"ADDED\",\"object\":{object}}}\n"))
                }
            };
            log.lock().unwrap().push(if request.contains("watch=true") { "watch" } else { "list" }.to_owned());
            let head = format!("HTTP/1.1 {code} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            stream.write_all((head + &body).as_bytes()).await.unwrap();
        }
    });
    let client = Client::try_from(Config::new(url.parse().unwrap())).unwrap();
    let namespaces = WATCHED.iter().find(|kind| kind.kind == "Namespace").unwrap();
    (Api::all_with(client, &namespaces.resource()), asked)
}

#[tokio::test]
async fn mf_05_a_watch_whose_place_is_forgotten_before_it_begins_lists_again() {
    let (api, asked) = forgetful().await;
    let mut watch = Watch::new(api, WAIT_MAX);
    let until_news = async {
        loop {
            let (said, next) = watch.next().await.unwrap();
            if matches!(said, Said::Result(Ok(watcher::Event::Apply(_)))) {
                return;
            }
            watch = next;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), until_news).await.expect("it goes on");
    assert_eq!(*asked.lock().unwrap(), ["list", "watch", "list", "watch"]);
}

/// What a server does with a connection after it has read the request.
enum Answer {
    /// Says this and hangs up.
    Says(u16, &'static str),
    /// Begins an answer and says no more, on a connection that lives.
    Silent,
}

/// A server that lists nothing and answers each watch by its number, from 1; what it was asked for.
async fn server(answer: fn(usize) -> Answer) -> (String, Arc<Mutex<Vec<&'static str>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    tokio::spawn(async move {
        let (mut watches, mut held) = (0, Vec::new());
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4_096];
            let length = stream.read(&mut request).await.unwrap();
            let is_watch = String::from_utf8_lossy(&request[..length]).contains("watch=true");
            log.lock().unwrap().push(if is_watch { "watch" } else { "list" });
            watches += usize::from(is_watch);
            let list = Answer::Says(200, r#"{"metadata":{"resourceVersion":"7"},"items":[]}"#);
            let (code, body) = match if is_watch { answer(watches) } else { list } {
                Answer::Says(code, body) => (code, Some(body)),
                Answer::Silent => (200, None),
            };
            let length = body.map_or(1, str::len);
            let head = format!("HTTP/1.1 {code} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
            stream.write_all((head + body.unwrap_or_default()).as_bytes()).await.unwrap();
            if body.is_none() {
                held.push(stream);
            }
        }
    });
    (url, asked)
}

/// Follows a watch of namespaces as everything behind it sees it, until that is as wanted.
async fn follow_until(mut watch: Watch, mut is_wanted: impl FnMut(&Gather) -> bool) {
    let kind = WATCHED.iter().find(|kind| kind.kind == "Namespace").unwrap();
    let mut gather = Gather::new(["namespaces".to_owned()]);
    let follow = async {
        while !is_wanted(&gather) {
            let (said, next) = watch.next().await.unwrap();
            for heard in hear(kind, said, false) {
                gather.handle(0, heard);
            }
            watch = next;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), follow).await.expect("it comes to that");
}

fn namespaces(url: &str, silence: Duration) -> Watch {
    let client = super::super::connect::client_that_hears(Config::new(url.parse().unwrap()), silence).unwrap();
    let kind = WATCHED.iter().find(|kind| kind.kind == "Namespace").unwrap();
    Watch::new(Api::all_with(client, &kind.resource()), WAIT_MAX)
}

#[tokio::test]
async fn mf_05_a_watch_that_hears_nothing_for_long_is_asked_for_again_without_a_list_or_an_alarm() {
    let (url, asked) = server(|_| Answer::Silent).await;
    let watch = namespaces(&url, Duration::from_secs(1));
    follow_until(watch, |gather| {
        assert!(!gather.has_fault(), "{:?}", gather.refusals());
        asked.lock().unwrap().ends_with(&["watch", "watch", "watch"])
    })
    .await;
    assert_eq!(asked.lock().unwrap().iter().filter(|what| **what == "list").count(), 1);
}

#[tokio::test]
async fn mf_05_a_watch_that_stands_again_is_no_longer_told_of_though_nothing_happens() {
    let (url, _asked) = server(|number| if number < 3 { Answer::Says(500, "{}") } else { Answer::Silent }).await;
    let mut watch = namespaces(&url, Duration::from_secs(60));
    watch.settled = Duration::from_secs(1);
    let mut has_failed = false;
    follow_until(watch, |gather| {
        has_failed |= gather.has_fault();
        has_failed && gather.is_current()
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_of_in_words() {
    // nobody listens on what is held without listening
    let held = tokio::net::TcpSocket::new_v4().unwrap();
    held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let watch = namespaces(&format!("http://{}", held.local_addr().unwrap()), Duration::from_secs(60));
    let mut told = String::new();
    follow_until(watch, |gather| {
        told = gather.refusals().first().map(ToString::to_string).unwrap_or_default();
        gather.has_fault()
    })
    .await;
    let words = "watch of namespaces: the API server does not answer: ";
    assert!(told.starts_with(words) && told.ends_with("(os error 111)"), "{told}");
}
