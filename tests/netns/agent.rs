//! An agent in each pod of a policy case, and who reaches whom as they see it: many pairs at once, both families.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::IpAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::lab::Lab;

const SCRIPT: &str = include_str!("agent.py");

/// A running agent; it ends with this.
struct Agent {
    child: Child,
    stdin: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Agent {
    fn ask(&mut self, question: &Value) {
        writeln!(self.stdin, "{question}").expect("the agent listens");
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the agent answers");
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("the agent said {line:?}: {e}"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// One pair of pods over one family.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    pub from: String,
    pub to: String,
    pub v6: bool,
}

/// The agents of a lab's pods.
pub struct Agents {
    all: BTreeMap<String, Agent>,
    ips: BTreeMap<String, Vec<IpAddr>>,
    nonce: u32,
    /// What was asked and nobody wanted to arrive, by its nonce.
    unwanted: BTreeMap<String, Pair>,
    /// What of it arrived after its probe was over.
    late: Vec<Pair>,
}

/// What probes found.
#[derive(Debug, Default)]
pub struct Seen {
    /// Question and answer came through.
    pub answered: BTreeSet<Pair>,
    /// The question came through, whatever became of the answer.
    pub arrived: BTreeSet<Pair>,
}

impl Agents {
    /// Starts one in each of these places, `namespace/name`.
    pub fn start(lab: &Lab, pods: &[&str]) -> Self {
        let mut all = BTreeMap::new();
        for pod in pods {
            let mut child = lab.command(pod, &["python3", "-u", "-c", SCRIPT]);
            let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3 runs");
            let stdin = child.stdin.take().expect("piped");
            let answers = BufReader::new(child.stdout.take().expect("piped"));
            all.insert((*pod).to_owned(), Agent { child, stdin, answers });
        }
        for agent in all.values_mut() {
            assert_eq!(agent.answer(), "ready");
        }
        let ips = pods.iter().map(|pod| ((*pod).to_owned(), lab.ips_there(pod))).collect();
        Self { all, ips, nonce: 0, unwanted: BTreeMap::new(), late: Vec::new() }
    }

    /// A pod's address.
    pub fn ip(&self, pod: &str, v6: bool) -> IpAddr {
        self.ip_there(pod, v6).unwrap_or_else(|| panic!("{pod} has no address of this family, v6 {v6}"))
    }

    /// The families that the pods have, `true` for IPv6.
    pub fn families(&self) -> impl Iterator<Item = bool> {
        let any = self.ips.values().next().cloned().unwrap_or_default();
        [false, true].into_iter().filter(move |v6| any.iter().any(|ip| ip.is_ipv6() == *v6))
    }

    fn ip_there(&self, pod: &str, v6: bool) -> Option<IpAddr> {
        self.ips[pod].iter().find(|ip| ip.is_ipv6() == v6).copied()
    }

    /// Every ordered pair of different pods, over each family that they have.
    pub fn pairs(&self, pods: &[&str]) -> Vec<Pair> {
        let mut pairs = all_pairs(pods);
        pairs.retain(|pair| self.ip_there(&pair.to, pair.v6).is_some());
        pairs
    }

    /// What is known to have arrived of earlier probes after they were over and was not wanted, since this was asked last.
    pub fn late(&mut self) -> Vec<Pair> {
        std::mem::take(&mut self.late)
    }

    /// The same after everybody was asked.
    pub fn late_anywhere(&mut self) -> Vec<Pair> {
        let everybody = self.all.keys().cloned().collect();
        self.hear(&everybody);
        self.late()
    }

    /// The nonces that arrived in these places since the last time.
    fn hear(&mut self, places: &BTreeSet<String>) -> Vec<String> {
        for (_, agent) in self.all.iter_mut().filter(|(place, _)| places.contains(*place)) {
            agent.ask(&json!({"heard": []}));
        }
        let mut heard = Vec::new();
        for (_, agent) in self.all.iter_mut().filter(|(place, _)| places.contains(*place)) {
            let answer = agent.answer();
            heard
                .extend(answer.as_array().expect("a list").iter().filter_map(|nonce| Some(nonce.as_str()?.to_owned())));
        }
        self.late.extend(heard.iter().filter_map(|nonce| self.unwanted.get(nonce).cloned()));
        heard
    }

    /// Tries all these pairs at once; waits `wait` seconds for the answers, and less where the `wanted` ones came before.
    pub fn probe(&mut self, pairs: &[Pair], wanted: &BTreeSet<Pair>, protocol: &str, port: u16, wait: f64) -> Seen {
        let mut asked: BTreeMap<String, Pair> = BTreeMap::new();
        let mut questions: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
        for pair in pairs {
            self.nonce += 1;
            let nonce = format!("{:08x}", self.nonce);
            let ip = self.ip(&pair.to, pair.v6);
            questions.entry(&pair.from).or_default().push(json!([protocol, ip, port, nonce, wanted.contains(pair)]));
            asked.insert(nonce, pair.clone());
        }
        for (pod, probes) in &questions {
            self.all.get_mut(*pod).expect("a pod with an agent").ask(&json!({"probe": probes, "wait": wait}));
        }
        let mut seen = Seen::default();
        for pod in questions.keys() {
            let answer = self.all.get_mut(*pod).expect("the same").answer();
            let nonces = answer.as_array().expect("a list").iter().filter_map(Value::as_str);
            seen.answered.extend(nonces.filter_map(|nonce| asked.get(nonce).cloned()));
        }
        let heard = self.hear(&pairs.iter().map(|pair| pair.to.clone()).collect());
        seen.arrived.extend(heard.iter().filter_map(|nonce| asked.get(nonce).cloned()));
        asked.retain(|_, pair| !wanted.contains(pair));
        self.unwanted.append(&mut asked);
        seen
    }

    /// Whether one pair reaches each other, in half a second.
    pub fn reaches(&mut self, from: &str, to: &str, v6: bool, protocol: &str, port: u16) -> bool {
        self.reach(from, to, &[v6], protocol, port) == [v6]
    }

    /// The families of these over which one pair reaches each other, in half a second.
    pub fn reach(&mut self, from: &str, to: &str, v6: &[bool], protocol: &str, port: u16) -> Vec<bool> {
        let pairs: Vec<_> = v6.iter().map(|v6| Pair { from: from.to_owned(), to: to.to_owned(), v6: *v6 }).collect();
        let seen = self.probe(&pairs, &pairs.iter().cloned().collect(), protocol, port, 0.5);
        seen.answered.into_iter().map(|pair| pair.v6).collect()
    }
}

/// Every ordered pair of different pods, over both families.
pub fn all_pairs(pods: &[&str]) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for from in pods {
        for to in pods.iter().filter(|to| *to != from) {
            for v6 in [false, true] {
                pairs.push(Pair { from: (*from).to_owned(), to: (*to).to_owned(), v6 });
            }
        }
    }
    pairs
}

/// Whether a name matches a pattern with stars.
pub fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => {
            name.strip_prefix(start).is_some_and(|left| (0..=left.len()).any(|skipped| matches(rest, &left[skipped..])))
        }
    }
}

/// A command that runs where a place of the lab is.
impl Lab {
    pub fn command(&self, place: &str, command: &[&str]) -> Command {
        let mut whole = Command::new(crate::lab::program("meshctl"));
        whole.args(["lab", "exec", place, "--"]).args(command);
        whole
    }
}
