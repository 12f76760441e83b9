//! `reranker bench peak`: what this chip can do at most, which the share of it that an engine
//! reaches is measured by.

use std::process::ExitCode;
use std::time::Duration;

use kernels::Levels;
use serde_json::json;

use super::super::output::say;
use super::super::{Usage, cpu, setup};
use crate::config::Config;

#[derive(clap::Args)]
pub struct Args {
    /// Milliseconds to measure for, after as many that bring the chip to its clock.
    #[arg(long = "time", value_name = "MS", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    time_ms: u64,
    /// Bits of weights and inputs, of which AVX2 and AVX-512 without VNNI multiply fewer faster:
    /// weights of 6 to 8, inputs of 7 or 8.
    #[arg(long, value_names = ["WEIGHTS", "INPUTS"], num_args = 2, default_values_t = [8, 8])]
    bits: Vec<u32>,
    /// Print a JSON line instead of a table.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, config: &Config) -> anyhow::Result<ExitCode> {
    let levels = match args.bits[..] {
        [weights @ 6..=8, inputs @ 7..=8] => Levels::of_bits(weights, inputs),
        _ => {
            let given: Vec<String> = args.bits.iter().map(u32::to_string).collect();
            let message = format!(
                "--bits {}: the weights' are 6 to 8, the inputs' 7 or 8",
                given.join(" ")
            );
            return Err(Usage(message).into());
        }
    };
    let kernels = setup::kernels(config)?;
    let threads = setup::threads(config);
    let pool = setup::pool(config)?;
    let time = Duration::from_millis(args.time_ms);
    let peak = pool.install(|| {
        kernels.int8_peak(levels, time);
        kernels.int8_peak(levels, time)
    });
    let (isa, gops) = (kernels.isa().name(), peak / 1e9);
    if args.json {
        let line = json!({
            "cpu": cpu::name(), "instruction_set": isa, "bits": args.bits, "threads": threads, "int8_gops": (gops * 1e3).round() / 1e3,
        });
        say!("{line}")?;
    } else {
        say!(
            "{}, {isa}, {threads} threads, {} bits of weights and {} of inputs: {gops:.0} int8 operations a nanosecond",
            cpu::name(),
            args.bits[0],
            args.bits[1]
        )?;
    }
    Ok(ExitCode::SUCCESS)
}
