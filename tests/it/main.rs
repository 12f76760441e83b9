//! The tests of the library and the program, in one program: it is linked once, and its modules run beside each other.
//! `cargo test --test it server::` runs one module. A test that needs a process of its own is a program beside this folder.

mod support;

mod api;
mod azure;
mod cli;
mod dialects;
mod documented;
mod faults;
mod fetch;
mod folders;
mod golden;
mod hostile;
mod lambda;
mod layers;
mod packed;
mod privacy;
mod server;
mod telemetry;
mod tokenizer;
mod wire;
