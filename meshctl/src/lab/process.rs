//! Processes of a lab: started in a namespace as a group of their own, watched, and ended as a group.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use linux::netns::{Netns, NetnsKey};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

/// A running process, the leader of its group.
pub(super) struct Process {
    pid: Pid,
    /// False once it is reaped: its number may then be somebody else's. Locked while it is reaped or signalled.
    is_ours: Arc<Mutex<bool>>,
}

/// Starts `command` in the namespace with its output appended to `log`; `on_exit` is called once, on another thread,
/// when it has ended and its group with it.
///
/// # Errors
/// The program is not there or may not be run, or the log cannot be written.
pub(super) fn spawn(
    netns: &Netns,
    mut command: Command,
    log: &Path,
    on_exit: impl FnOnce(ExitStatus) + Send + 'static,
) -> anyhow::Result<Process> {
    let file = File::options().create(true).append(true).open(log);
    let file = file.with_context(|| format!("cannot write {}", log.display()))?;
    let errors = file.try_clone().context("cannot share the log")?;
    command.stdin(Stdio::null()).stdout(file).stderr(errors).process_group(0);
    let program = command.get_program().to_owned();
    let mut child = netns.spawn_in(command).with_context(|| format!("cannot start {}", program.display()))?;
    let pid = pid_of(&child)?;
    let is_ours = Arc::new(Mutex::new(true));
    let process = Process { pid, is_ours: Arc::clone(&is_ours) };
    thread::Builder::new()
        .name("reaper".to_owned())
        .stack_size(128 * 1024)
        .spawn(move || {
            // first wait without reaping, so that the number stays ours until the lock is held
            let _gone = rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            let status = {
                let mut is_ours = is_ours.lock().unwrap_or_else(PoisonError::into_inner);
                let _nobody_left = rustix::process::kill_process_group(pid, Signal::KILL);
                *is_ours = false;
                child.wait()
            };
            if let Ok(status) = status {
                on_exit(status);
            }
        })
        .context("cannot start a thread")?;
    Ok(process)
}

impl Process {
    /// Its process id.
    pub(super) fn id(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Signals the whole group; nothing happens when it has ended.
    pub(super) fn signal(&self, signal: Signal) {
        let is_ours = self.is_ours.lock().unwrap_or_else(PoisonError::into_inner);
        if *is_ours {
            let _ended_meanwhile = rustix::process::kill_process_group(self.pid, signal);
        }
    }
}

fn pid_of(child: &Child) -> anyhow::Result<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a process without a number")
}

/// What a command that was waited for said.
pub(super) struct Said {
    /// How it ended.
    pub(super) status: ExitStatus,
    /// Its stdout.
    pub(super) stdout: Vec<u8>,
    /// Its stderr.
    pub(super) stderr: Vec<u8>,
}

/// Runs `command` in the namespace with `input` on its stdin and waits for it, but not longer than `patience`: it is
/// killed then.
///
/// # Errors
/// It cannot be started, or did not end in time.
pub(super) fn run(netns: &Netns, mut command: Command, input: &[u8], patience: Duration) -> anyhow::Result<Said> {
    use std::io::Write as _;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let program = command.get_program().to_owned();
    let mut child = netns.spawn_in(command).with_context(|| format!("cannot start {}", program.display()))?;
    let pid = pid_of(&child)?;
    if let Some(mut stdin) = child.stdin.take() {
        // a program that does not read its stdin is no error of ours
        let _not_read = stdin.write_all(input);
    }
    let (sender, receiver) = std::sync::mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    let output = match receiver.recv_timeout(patience) {
        Ok(output) => output.with_context(|| format!("cannot wait for {}", program.display()))?,
        Err(_) => {
            let _ended_meanwhile = rustix::process::kill_process_group(pid, Signal::KILL);
            bail!("{} did not end within {} s and was killed", program.display(), patience.as_secs());
        }
    };
    Ok(Said { status: output.status, stdout: output.stdout, stderr: output.stderr })
}

/// The processes whose network namespace is one of `namespaces`.
pub(super) fn within(namespaces: &[NetnsKey]) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let is_inside =
        |pid: &i32| Netns::open(format!("/proc/{pid}/ns/net")).is_ok_and(|ns| namespaces.contains(&ns.key()));
    entries
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(is_inside)
        .filter_map(Pid::from_raw)
        .collect()
}

/// Kills every process in `namespaces`, until there is none; those that start while we look are found by looking again.
///
/// # Errors
/// Some still live after `patience`, as processes in uninterruptible sleep do.
pub(super) fn kill_within(namespaces: &[NetnsKey], patience: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        let alive = within(namespaces);
        if alive.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("processes {alive:?} do not die");
        }
        for pid in alive {
            let _ended_meanwhile = rustix::process::kill_process(pid, Signal::KILL);
        }
        thread::sleep(Duration::from_millis(5));
    }
}
