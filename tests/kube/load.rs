//! Load that runs beside a case: many conversations, a request after the other, datagrams. Each says what it has lost.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::IpAddr;
use std::process::{Child, ChildStdout};

use crate::pod::{MARKER, Pod};
use crate::shell::attempt;

/// Something that runs in a pod's network until its time is over; it ends with this value.
pub struct Load {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Pod {
    /// Conversations with a pod's echo server over so many connections; returns when all are up.
    pub fn talks(&self, to: IpAddr, count: u32, seconds: u32) -> Load {
        let (to, count, seconds) = (to.to_string(), count.to_string(), seconds.to_string());
        let words = [to.as_str(), &count, &seconds, MARKER];
        self.load(include_str!("load/talks.py"), &words)
    }

    /// HTTP requests for `/name`, one after the other.
    pub fn requests(&self, to: IpAddr, port: u16, seconds: u32) -> Load {
        let words = [&to.to_string(), &port.to_string(), &seconds.to_string(), MARKER];
        self.load(include_str!("load/requests.py"), &words)
    }

    /// Marked datagrams, whether somebody is there or not.
    pub fn datagrams(&self, to: IpAddr, port: u16, seconds: u32) -> Load {
        let words = [&to.to_string(), &port.to_string(), &seconds.to_string(), MARKER];
        self.load(include_str!("load/datagrams.py"), &words)
    }

    /// One conversation until it is cut.
    pub fn until_cut(&self, to: IpAddr, seconds: u32) -> Load {
        self.load(include_str!("load/until_cut.py"), &[&to.to_string(), &seconds.to_string()])
    }

    /// Starts a Python program in the pod's network; it says "up" when it is.
    pub fn load(&self, program: &str, words: &[&str]) -> Load {
        let mut child = self.spawn(&[&["python3", "-c", program], words].concat());
        let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        let _count = output.read_line(&mut line).expect("it says when it is up");
        let load = Load { child, output };
        if line.trim() != "up" {
            load.finish();
            panic!("the load of {} said {line:?} first", self.name);
        }
        load
    }
}

impl Load {
    /// Ends it before its time, as [`Load::finish`] does when that is over.
    pub fn enough(self) -> (u64, f64) {
        assert!(attempt("kill", &["-INT", &self.child.id().to_string()]).status.success(), "the load still runs");
        self.finish()
    }

    /// Waits for its end, which must be a good one: the two numbers that it says.
    pub fn finish(mut self) -> (u64, f64) {
        let (mut text, mut errors) = (String::new(), String::new());
        self.output.read_to_string(&mut text).expect("python3 writes text");
        self.child.stderr.take().expect("it is piped").read_to_string(&mut errors).expect("python3 writes text");
        let status = self.child.wait().expect("python3 ends");
        assert!(status.success(), "{text}{errors}");
        let (count, number) = text.trim().split_once(' ').expect("two numbers");
        (count.parse().expect("a number"), number.parse().expect("a number"))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // one that has ended is none to end
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}
