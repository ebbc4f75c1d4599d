//! meshctl: what people type to see, check and try Weft.

mod admin_reply;
mod ca;
mod chart;
mod check;
mod cli;
mod door;
mod identity;
mod install;
mod installed;
mod interrupt;
mod kubectl;
mod lab;
mod manifests;
mod node;
mod peers;
mod policy;
mod rpc;
mod screen;
mod status;
mod target;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match cli::Cli::parse().run() {
        Ok(code) => code,
        Err(error) if screen::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            screen::note(&format!("meshctl: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
