//! The Weft daemon: `meshd node` and `meshd controller`.

mod app;
mod clock;
mod cluster;
mod config;
mod controller;
mod datapath;
mod http;
mod install;
mod kernel;
mod line_socket;
mod log;
mod metrics;
mod node;
mod pace;
mod ready;
mod start;
mod store;
mod tunnel;

use clap::Parser;
use config::{Cli, Command};

fn main() -> std::process::ExitCode {
    let outcome = match Cli::parse().command {
        Command::Node(config) => app::run_node(*config),
        Command::Controller(config) => app::run_controller(config),
        Command::Clean(config) => app::run_clean(&config),
        Command::Tunnel(config) => tunnel::run(&config),
        Command::Uninstall(config) => app::run_uninstall(&config),
        Command::Crds => app::run_crds(),
        Command::Ready(config) => ready::ask(&config.ready_file),
    };
    match outcome {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            // the log may not be up yet, and a supervisor shows what is on stderr
            use std::io::Write as _;
            let _shown = writeln!(std::io::stderr(), "meshd: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
