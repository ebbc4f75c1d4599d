//! The Weft daemon: `meshd node` and `meshd controller`.

mod admin;
mod app;
mod attach;
mod cluster;
mod config;
mod controller;
mod datapath;
mod kernel;
mod store;

fn main() {}
