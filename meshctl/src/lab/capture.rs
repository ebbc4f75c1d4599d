//! tcpdump in a namespace: capturing before the first packet of interest, and until after the last.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use linux::netns::Netns;
use rustix::process::{Pid, Signal};

use super::facts::MESH_PORT;
use super::pick::{Lab, LabChoice};
use super::{exec, pcap};
use crate::screen;

/// The discard port of RFC 863.
const DISCARD_PORT: u16 = 9;

/// How long the last packet may take to reach the file.
const LAST_PATIENCE: Duration = Duration::from_secs(5);

/// `meshctl lab capture`.
#[derive(Debug, clap::Args)]
pub(super) struct CaptureArgs {
    /// Where the wire is: underlay, stranger, node/NAME or a pod.
    #[arg(default_value = "underlay", value_name = "WHERE")]
    place: String,
    /// The link; the underlay's bridge or eth0 where absent.
    #[arg(long)]
    link: Option<String>,
    /// What to look for in clear text.
    #[arg(long, default_value = "weft-probe")]
    marker: String,
    /// Where the frames are kept.
    #[arg(short, long, value_name = "FILE")]
    write: PathBuf,
    #[command(flatten)]
    lab: LabChoice,
}

/// Says `{"listening":true}` once it captures, and what was on the wire when stdin has ended.
///
/// # Errors
/// As [`start`] and [`Capture::end`].
pub(super) fn run(args: &CaptureArgs) -> anyhow::Result<()> {
    let lab = args.lab.open()?;
    let netns = Netns::open_named(&exec::namespace(&lab, &args.place)?)?;
    let link = args.link.as_deref().unwrap_or(if args.place == "underlay" { "br0" } else { "eth0" });
    let capture = start(&netns, link, &args.write, last_word_to(&lab)?)?;
    screen::out(r#"{"listening":true}"#)?;
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).context("cannot read stdin")?;
    let tally = pcap::tally(&capture.end()?, args.marker.as_bytes(), MESH_PORT)?;
    screen::out(&serde_json::to_string(&tally)?)
}

/// The stranger: what is said to it goes by every capture on the wire.
pub(super) fn last_word_to(lab: &Lab) -> anyhow::Result<SocketAddr> {
    let stranger = lab.facts.stranger.addresses.first().context("a stranger without an address")?;
    Ok((stranger.addr(), DISCARD_PORT).into())
}

/// A running capture; ends with this value.
pub(super) struct Capture {
    tcpdump: Child,
    stderr: BufReader<ChildStderr>,
    netns: Netns,
    file: PathBuf,
    neighbour: SocketAddr,
}

/// Starts capturing all frames on `link` into `file`, and returns once tcpdump listens. `neighbour` is an address that
/// is reached over the link; nobody needs to answer there.
///
/// # Errors
/// tcpdump is missing or cannot listen; what it said.
pub(super) fn start(netns: &Netns, link: &str, file: &Path, neighbour: SocketAddr) -> anyhow::Result<Capture> {
    let mut command = Command::new("tcpdump");
    // promiscuous: a bridge shows what it forwards only to those who ask for everything
    command
        .args(["-i", link, "-n", "-s", "0", "-U", "--immediate-mode", "-B", "32768", "-Z", "root", "-w"])
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut tcpdump = netns.spawn_in(command).context("cannot run tcpdump: install it")?;
    let mut stderr = BufReader::new(tcpdump.stderr.take().context("tcpdump without stderr")?);
    let mut said = String::new();
    while stderr.read_line(&mut said).context("cannot read what tcpdump says")? > 0 {
        if said.contains("listening on") {
            return Ok(Capture { tcpdump, stderr, netns: netns.try_clone()?, file: file.to_owned(), neighbour });
        }
    }
    bail!("tcpdump does not listen on {link}: {}", said.trim());
}

impl Capture {
    /// Ends the capture once everything sent until now is in the file, and returns the file's bytes.
    ///
    /// # Errors
    /// Packets were lost on the way into the file, or tcpdump does not end.
    pub(super) fn end(mut self) -> anyhow::Result<Vec<u8>> {
        let mark = format!("weft-last-word-{}", super::stage::random_uuid()?);
        let deadline = Instant::now() + LAST_PATIENCE;
        loop {
            let say = || UdpSocket::bind(any(self.neighbour)).and_then(|s| s.send_to(mark.as_bytes(), self.neighbour));
            self.netns.within(say)?.with_context(|| format!("cannot send to {}", self.neighbour))?;
            std::thread::sleep(Duration::from_millis(20));
            if pcap::count(&self.read()?, mark.as_bytes()) > 0 {
                break;
            }
            ensure!(Instant::now() < deadline, "tcpdump does not see what is sent to {}", self.neighbour);
        }
        self.interrupt()?;
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).context("cannot read what tcpdump says")?;
        self.tcpdump.wait().context("cannot wait for tcpdump")?;
        let dropped = said.lines().find_map(|l| l.strip_suffix(" packets dropped by kernel")).map(str::trim);
        ensure!(dropped.is_none_or(|n| n == "0"), "tcpdump lost packets, so the capture proves nothing: {said}");
        self.read()
    }

    fn read(&self) -> anyhow::Result<Vec<u8>> {
        std::fs::read(&self.file).with_context(|| format!("cannot read {}", self.file.display()))
    }

    fn interrupt(&self) -> anyhow::Result<()> {
        let pid = i32::try_from(self.tcpdump.id()).ok().and_then(Pid::from_raw).context("tcpdump without a number")?;
        rustix::process::kill_process(pid, Signal::INT).context("cannot stop tcpdump")
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ended_already = self.tcpdump.kill();
        let _ended_already = self.tcpdump.wait();
    }
}

fn any(neighbour: SocketAddr) -> SocketAddr {
    match neighbour {
        SocketAddr::V4(_) => (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}
