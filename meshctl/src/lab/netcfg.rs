//! Configures namespaces from the inside: `ip -batch` for links and addresses, /proc/sys for switches.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use linux::netns::Netns;

/// Runs a script of `ip` commands, one a line, inside the namespace.
///
/// # Errors
/// `ip` is missing, or one of the commands failed; those before it stay done.
pub(super) fn ip_batch(netns: &Netns, script: &str) -> anyhow::Result<()> {
    let mut command = Command::new("ip");
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = netns.spawn_in(command).context("cannot run `ip`: install iproute2")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes()).context("cannot talk to `ip`")?;
    }
    let output = child.wait_with_output().context("cannot wait for `ip`")?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    let line = reason.rsplit_once("Command failed -:").and_then(|(_, n)| n.trim().parse::<usize>().ok());
    let failed = line.and_then(|n| script.lines().nth(n.saturating_sub(1))).unwrap_or(script);
    bail!("ip {}: {}", failed.trim(), reason.trim())
}

/// Sets switches under /proc/sys/net inside the namespace; `ipv6/…` ones are skipped where the kernel has no IPv6.
///
/// # Errors
/// A switch does not exist or is read-only, as /proc/sys is in most containers.
pub(super) fn sysctls(netns: &Netns, switches: &[(&str, &str)]) -> anyhow::Result<()> {
    netns
        .within(|| {
            for (name, value) in switches {
                let path = format!("/proc/sys/net/{name}");
                match std::fs::write(&path, value) {
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound && name.starts_with("ipv6/") => {}
                    Err(e) => return Err(e).with_context(|| format!("cannot write {value} to {path}")),
                    Ok(()) => {}
                }
            }
            Ok(())
        })
        .context("cannot enter the namespace")?
}
