//! A unix socket on which one JSON line is asked and one JSON line answered; the plugin's and meshctl's door.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Questions waited on at once; more wait in the kernel's accept queue.
const CONVERSATIONS_MAX: usize = 64;
/// How long a client may take to ask or to take its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a stopping daemon waits until those who asked have their answer.
const FAREWELL: Duration = Duration::from_secs(1);

/// A line that came in, and where its answer goes.
#[derive(Debug)]
pub(crate) struct Asked {
    /// The line, without its end.
    pub(crate) line: Vec<u8>,
    /// Takes the line to answer with, without its end.
    pub(crate) reply: oneshot::Sender<Vec<u8>>,
}

/// A bound socket; its file goes when this is dropped.
#[derive(Debug)]
pub(crate) struct LineSocket {
    path: PathBuf,
    task: tokio::task::JoinHandle<()>,
    room: Arc<Semaphore>,
}

/// What every conversation of a socket needs.
struct Terms {
    line_max: u64,
    asked: mpsc::Sender<Asked>,
    /// Said to whoever asks a daemon that is stopping.
    refusal: Vec<u8>,
}

impl LineSocket {
    /// Binds `path` (mode 0600, a stale file is replaced) and hands each line of at most `line_max` bytes to `asked`.
    /// Where that is not answered any more the answer is `refusal`, a line without its end.
    ///
    /// # Errors
    /// The folder cannot be made or the socket not bound; the message names the path.
    pub(crate) fn bind(
        path: &Path,
        line_max: u64,
        asked: mpsc::Sender<Asked>,
        refusal: Vec<u8>,
    ) -> anyhow::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            anyhow::bail!("{} is answered by another daemon: stop that one first", path.display());
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot replace the stale socket {}", path.display()));
            }
            _ => {}
        }
        let listener =
            UnixListener::bind(path).with_context(|| format!("cannot bind the socket {}", path.display()))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
            .with_context(|| format!("cannot make {} private", path.display()))?;
        let room = Arc::new(Semaphore::new(CONVERSATIONS_MAX));
        let terms = Arc::new(Terms { line_max, asked, refusal });
        let task = tokio::spawn(accept(listener, Arc::clone(&room), terms));
        Ok(Self { path: path.to_path_buf(), task, room })
    }

    /// Takes nobody in any more, and waits a moment until those who have asked have their answer.
    pub(crate) async fn finish(self) {
        self.task.abort();
        let all = u32::try_from(CONVERSATIONS_MAX).unwrap_or(u32::MAX);
        // who neither asks nor reads has had its moment
        let _in_time = tokio::time::timeout(FAREWELL, self.room.acquire_many(all)).await;
    }
}

impl Drop for LineSocket {
    fn drop(&mut self) {
        self.task.abort();
        let _gone = std::fs::remove_file(&self.path);
    }
}

async fn accept(listener: UnixListener, room: Arc<Semaphore>, terms: Arc<Terms>) {
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let terms = Arc::clone(&terms);
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, &terms).await {
                        tracing::debug!(%error, "a conversation on a socket ended early");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                // out of descriptors, most likely: refuse new work for a moment instead of spinning
                tracing::warn!(%error, "cannot accept on a socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: UnixStream, terms: &Terms) -> anyhow::Result<()> {
    let line_max = terms.line_max;
    let (reader, mut writer) = stream.into_split();
    let mut line = Vec::new();
    let mut bounded = BufReader::new(reader.take(line_max));
    tokio::time::timeout(PATIENCE, bounded.read_until(b'\n', &mut line))
        .await
        .context("nothing was asked in time")??;
    if line.pop() != Some(b'\n') {
        anyhow::bail!("a question without its line end, or over {line_max} bytes");
    }
    let (reply, answer) = oneshot::channel();
    // nobody listens any more, or the question was dropped: the daemon is stopping
    let mut answer = match terms.asked.send(Asked { line, reply }).await {
        Ok(()) => answer.await.unwrap_or_else(|_dropped| terms.refusal.clone()),
        Err(_) => terms.refusal.clone(),
    };
    answer.push(b'\n');
    tokio::time::timeout(PATIENCE, writer.write_all(&answer)).await.context("the answer was not taken in time")??;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    fn ask(path: &Path, line: &[u8]) -> Vec<u8> {
        let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
        stream.write_all(line).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    }

    #[tokio::test]
    async fn a_line_is_asked_and_answered_and_the_file_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/x.sock");
        let (asked, mut questions) = mpsc::channel(4);
        let socket = LineSocket::bind(&path, 100, asked, Vec::new()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let asking = tokio::task::spawn_blocking({
            let path = path.clone();
            move || ask(&path, b"hello\n")
        });
        let question = questions.recv().await.unwrap();
        assert_eq!(question.line, b"hello");
        question.reply.send(b"there".to_vec()).unwrap();
        assert_eq!(asking.await.unwrap(), b"there\n");
        let busy = LineSocket::bind(&path, 100, mpsc::channel(1).0, Vec::new()).unwrap_err();
        assert!(busy.to_string().contains("another daemon"), "{busy}");
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn who_has_asked_a_daemon_that_stops_is_told_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        let (asked, mut questions) = mpsc::channel(4);
        let socket = LineSocket::bind(&path, 100, asked, b"stopping".to_vec()).unwrap();
        let ask = |line: &'static [u8]| {
            let path = path.clone();
            tokio::task::spawn_blocking(move || ask(&path, line))
        };
        let (taken, waiting) = (ask(b"taken\n"), ask(b"waiting\n"));
        let question = questions.recv().await.unwrap();
        while questions.is_empty() {
            tokio::task::yield_now().await;
        }
        drop((question, questions));
        socket.finish().await;
        assert!(!path.exists());
        assert_eq!((taken.await.unwrap(), waiting.await.unwrap()), (b"stopping\n".to_vec(), b"stopping\n".to_vec()));
    }

    #[tokio::test]
    async fn a_line_over_the_bound_is_not_handed_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        let (asked, mut questions) = mpsc::channel(4);
        let _socket = LineSocket::bind(&path, 8, asked, Vec::new()).unwrap();
        let asking = tokio::task::spawn_blocking({
            let path = path.clone();
            move || {
                let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
                let _sent = stream.write_all(b"far too long for this\n");
                let mut answer = Vec::new();
                let _closed = stream.read_to_end(&mut answer);
                answer
            }
        });
        assert_eq!(asking.await.unwrap(), b"");
        assert!(questions.try_recv().is_err());
    }
}
