//! `reranker bench peak`: what this chip can do at most, which the share of it that an engine reaches is measured by.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use super::super::output::say;
use super::super::setup;
use super::cpu_name;
use crate::config::Config;

#[derive(clap::Args)]
pub struct Args {
    /// Milliseconds to measure for, after as many that bring the chip to its clock.
    #[arg(long = "time", value_name = "MS", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    time_ms: u64,
    /// Print a JSON line instead of a table.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, config: &Config) -> anyhow::Result<ExitCode> {
    let kernels = setup::kernels(config)?;
    let threads = setup::threads(config);
    let pool = setup::pool(config)?;
    let time = Duration::from_millis(args.time_ms);
    let peak = pool.install(|| {
        kernels.int8_peak(time);
        kernels.int8_peak(time)
    });
    let (isa, gops) = (kernels.isa().name(), peak / 1e9);
    if args.json {
        let line = json!({
            "cpu": cpu_name(), "instruction_set": isa, "threads": threads, "int8_gops": (gops * 1e3).round() / 1e3,
        });
        say!("{line}")?;
    } else {
        say!(
            "{}, {isa}, {threads} threads: {gops:.0} int8 operations a nanosecond",
            cpu_name()
        )?;
    }
    Ok(ExitCode::SUCCESS)
}
