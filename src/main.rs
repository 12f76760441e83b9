//! The program: everything is in the library, `cli` composes it.

use std::process::ExitCode;

fn main() -> ExitCode {
    reranker::cli::main()
}
