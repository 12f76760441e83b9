//! Compiles the kernels: machine code for Ampere and Ada (8.x) and Hopper (9.0), and PTX, which the
//! driver compiles, for what comes later.

use std::path::PathBuf;
use std::process::Command;

const TARGETS: [&str; 3] = [
    "arch=compute_80,code=sm_80",
    "arch=compute_90,code=sm_90",
    "arch=compute_90,code=compute_90",
];

fn main() {
    println!("cargo::rerun-if-changed=kernels");
    for name in ["NVCC", "CUDA_HOME"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let of_toolkit = || {
        let home = PathBuf::from(std::env::var_os("CUDA_HOME")?);
        Some(home.join("bin/nvcc").into_os_string())
    };
    let nvcc = std::env::var_os("NVCC")
        .or_else(of_toolkit)
        .unwrap_or_else(|| "nvcc".into());
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    let mut command = Command::new(&nvcc);
    command.args(["--fatbin", "-std=c++17", "-O3", "--output-file"]);
    command.arg(out.join("kernels.fatbin"));
    for target in TARGETS {
        command.args(["-gencode", target]);
    }
    command.arg("kernels/kernels.cu");
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{command:?} ended with {status}"),
        Err(error) => panic!(
            "{}, the compiler of the CUDA toolkit, does not start: {error}; NVCC or CUDA_HOME name another",
            nvcc.display()
        ),
    }
}
