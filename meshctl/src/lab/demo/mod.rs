//! `meshctl lab demo`: the whole story with real traffic, each claim checked, each check with its figures.

mod attacks;
mod endurance;
mod modes;
mod report;
mod story;
mod traffic;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context as _;

use super::pick::{self, LabChoice};
use super::programs::ProgramArgs;
use super::{down, up};
use crate::interrupt;
use crate::screen::{self, Format};
use report::Report;
use story::Story;

/// The name of the demo's lab.
const NAME: &str = "demo";

/// `meshctl lab demo`.
#[derive(Debug, clap::Args)]
pub(super) struct DemoArgs {
    #[command(flatten)]
    programs: ProgramArgs,
    /// `json` prints one object a check: name, ok, observed.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Leave the lab up afterwards, to look around: meshctl lab down --name demo ends it.
    #[arg(long)]
    keep: bool,
}

/// Tells the story; the exit code says whether every check held.
///
/// # Errors
/// The lab cannot be built, or something that is no check fails.
pub(super) fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    pick::ensure_root()?;
    interrupt::defer()?;
    let begin = Instant::now();
    let choice = LabChoice::named(NAME);
    down::down(&choice).context("a demo before this one left something behind")?;
    let mut report = Report::new(args.output);
    let told = tell(args, &choice, &mut report);
    if args.keep {
        screen::note(&format!("The lab is still up: meshctl status --lab {NAME}; meshctl lab down --name {NAME}"));
    } else {
        let gone = down::down(&choice);
        report.check(
            "down: the lab leaves nothing behind",
            gone.is_ok(),
            &serde_json::json!({
                "problem": gone.err().map(|e| format!("{e:#}")),
            }),
        )?;
    }
    told?;
    report.end(begin.elapsed())?;
    Ok(if report.is_well() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn tell(args: &DemoArgs, choice: &LabChoice, report: &mut Report) -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("no room for the demo's lab.yaml")?;
    let file = story::write_lab(folder.path())?;
    let begin = Instant::now();
    let lab = up::up(&up::UpArgs {
        file: Some(file),
        lab: choice.clone(),
        programs: args.programs.clone(),
        no_mesh: false,
        timeout: 60,
        keep: false,
        output: args.output,
    })?;
    let seconds = begin.elapsed().as_secs_f64();
    report.check("up: three nodes, six pods and a stranger", true, &serde_json::json!({ "seconds": seconds }))?;
    let mut story = Story::new(lab, report);
    traffic::outside(&mut story)?;
    traffic::inside(&mut story)?;
    traffic::names(&mut story)?;
    // a connection between two other pods lives from here to the end, through everything that follows
    let endurance = endurance::begin(&mut story)?;
    modes::permissive(&mut story)?;
    modes::strict(&mut story)?;
    modes::disable(&mut story)?;
    attacks::spoofed(&mut story)?;
    attacks::replayed(&mut story)?;
    attacks::withdrawn(&mut story)?;
    endurance.finish(&mut story)
}
