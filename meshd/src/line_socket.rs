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
}

impl LineSocket {
    /// Binds `path` (mode 0600, a stale file is replaced) and hands each line of at most `line_max` bytes to `asked`.
    ///
    /// # Errors
    /// The folder cannot be made or the socket not bound; the message names the path.
    pub(crate) fn bind(path: &Path, line_max: u64, asked: mpsc::Sender<Asked>) -> anyhow::Result<Self> {
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
        let task = tokio::spawn(accept(listener, line_max, asked));
        Ok(Self { path: path.to_path_buf(), task })
    }
}

impl Drop for LineSocket {
    fn drop(&mut self) {
        self.task.abort();
        let _gone = std::fs::remove_file(&self.path);
    }
}

async fn accept(listener: UnixListener, line_max: u64, asked: mpsc::Sender<Asked>) {
    let room = Arc::new(Semaphore::new(CONVERSATIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let asked = asked.clone();
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, line_max, asked).await {
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

async fn converse(stream: UnixStream, line_max: u64, asked: mpsc::Sender<Asked>) -> anyhow::Result<()> {
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
    asked.send(Asked { line, reply }).await.context("the daemon is stopping")?;
    let mut answer = answer.await.context("the daemon is stopping")?;
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
        let socket = LineSocket::bind(&path, 100, asked).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let asking = tokio::task::spawn_blocking({
            let path = path.clone();
            move || ask(&path, b"hello\n")
        });
        let question = questions.recv().await.unwrap();
        assert_eq!(question.line, b"hello");
        question.reply.send(b"there".to_vec()).unwrap();
        assert_eq!(asking.await.unwrap(), b"there\n");
        let busy = LineSocket::bind(&path, 100, mpsc::channel(1).0).unwrap_err();
        assert!(busy.to_string().contains("another daemon"), "{busy}");
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_line_over_the_bound_is_not_handed_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        let (asked, mut questions) = mpsc::channel(4);
        let _socket = LineSocket::bind(&path, 8, asked).unwrap();
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
