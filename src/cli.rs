//! The commands, one file each: they read `Config`, put the parts together, and print. Data goes to
//! stdout, logs and progress to stderr. Exit codes: 0 done, 1 failed (or a check found something
//! wrong), 2 called or configured wrongly.

mod bench;
mod cgroup;
mod cost;
mod cpu;
mod doctor;
mod eval;
mod fetch;
mod health;
mod library;
mod list;
mod memory;
mod models;
mod origin;
mod output;
mod pack;
mod process;
mod rm;
mod score;
mod serve;
mod setup;
mod verify;

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};

use self::output::{note, say};

use crate::config::Config;
use crate::telemetry::{self, LAST_LINES_TIME};

/// A cross-encoder reranker: scores how relevant a passage is to a query.
///
/// The environment decides the host: AWS Lambda, Azure Functions (as a custom handler), or a port
/// of its own. The model is the folder MODEL_DIR, or the hub model MODEL_NAME. A plain server
/// downloads a hub model that is not in the local Hugging Face cache. If neither is set, the small
/// bundled demo model is used. All settings are environment variables: `reranker variables` lists
/// them.
#[derive(Parser)]
#[command(name = "reranker", version, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve requests (the default).
    Serve(serve::Args),
    /// Score passages against a query, or JSONL pairs from a file.
    Score(score::Args),
    /// Measure the quality of rankings on retrieval test sets, and compare the scores of models.
    Eval(eval::Args),
    #[command(visible_alias = "download")]
    /// Download a model from the Hugging Face hub into its local cache; an interrupted download is
    /// resumed.
    Fetch(fetch::Args),
    #[command(visible_aliases = ["quantize", "convert"])]
    /// Quantize a model folder into one int8 file, and compare it with its source.
    Pack(pack::Args),
    /// Print the known models: size, languages, licence, published quality and purpose.
    Models(models::Args),
    #[command(visible_alias = "ls")]
    /// Print the rerankers in the local cache.
    List(list::Args),
    #[command(visible_alias = "remove")]
    /// Remove a model from the local cache.
    Rm(rm::Args),
    /// Compare the model's logits with its published ones; exits 1 if one differs.
    Verify(verify::Args),
    #[command(visible_alias = "check")]
    /// Check this machine, these settings and this model, and print what they can do.
    Doctor(doctor::Args),
    /// Check that the server on this machine with the same settings is ready; exits 1 if it is not.
    Health,
    /// Measure throughput and latency on fixed workloads, or cold starts.
    Bench(bench::Args),
    /// Estimate the time and cost of a number of pairs on AWS Lambda, from measured rates.
    Cost(cost::Args),
    /// Print the table of environment variables, as Markdown.
    Variables,
}

/// The model of a command, the same for every command.
#[derive(clap::Args, Default)]
struct ModelArg {
    /// Model folder, packed file, address in S3, or hub id in the local Hugging Face cache
    /// [default: the configured model].
    #[arg(long, value_name = "DIR|ID")]
    model: Option<String>,
}

impl ModelArg {
    /// The configuration with the model that was named.
    fn config(&self, config: &Config) -> Config {
        match &self.model {
            Some(model) => setup::with_model(config, model),
            None => config.clone(),
        }
    }
}

/// A failure that the user can mend by calling or configuring differently.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let started = process::began();
    let command = match Cli::try_parse() {
        Ok(cli) => cli
            .command
            .unwrap_or(Command::Serve(serve::Args::default())),
        Err(answer) => return answered(&answer),
    };
    let serving = matches!(command, Command::Serve(_));
    let result = match Config::from_env() {
        Ok(config) => {
            // Whatever panicked has said where.
            let ended = catch_unwind(AssertUnwindSafe(|| run(command, &config, started)));
            ended.unwrap_or(Ok(ExitCode::FAILURE))
        }
        // Its list helps to correct them.
        Err(_) if matches!(command, Command::Variables) => variables(),
        Err(errors) => Err(Usage(format!("wrong configuration:\n{errors}")).into()),
    };
    let code = result.unwrap_or_else(|error| {
        if output::is_reader_gone(&error) {
            return ExitCode::SUCCESS;
        }
        // What collects a service's log reads lines of JSON, also of one that never came to serve.
        let json = serving && telemetry::is_json(Config::wanted_log_json());
        telemetry::last_word(&format!("{error:#}"), json);
        if error.is::<Usage>() {
            ExitCode::from(2)
        } else if error.is::<serve::Broken>() {
            ExitCode::from(serve::BROKEN)
        } else {
            ExitCode::FAILURE
        }
    });
    telemetry::flush(LAST_LINES_TIME);
    code
}

/// Prints the help or version that was asked for, or what is wrong with the arguments.
fn answered(answer: &clap::Error) -> ExitCode {
    let printed = answer.print().and_then(|()| std::io::stdout().flush());
    match (printed, answer.exit_code()) {
        (Err(error), 0) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            note!("reranker: standard output: {error}");
            ExitCode::FAILURE
        }
        (_, 0) => ExitCode::SUCCESS,
        _ => ExitCode::from(2),
    }
}

fn variables() -> anyhow::Result<ExitCode> {
    say!("{}", crate::config::markdown_table().trim_end())?;
    Ok(ExitCode::SUCCESS)
}

fn run(command: Command, config: &Config, started: Instant) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(args) => serve::run(&args, config, started),
        Command::Score(args) => score::run(&args, config),
        Command::Eval(args) => eval::run(&args, config),
        Command::Fetch(args) => fetch::run(&args, config),
        Command::Pack(args) => pack::run(&args, config),
        Command::Models(args) => models::run(&args),
        Command::List(args) => list::run(&args, config),
        Command::Rm(args) => rm::run(&args, config),
        Command::Verify(args) => verify::run(&args, config),
        Command::Doctor(args) => doctor::run(&args, config),
        Command::Health => health::run(config),
        Command::Bench(args) => bench::run(&args, config, started),
        Command::Cost(args) => cost::run(&args),
        Command::Variables => variables(),
    }
}
