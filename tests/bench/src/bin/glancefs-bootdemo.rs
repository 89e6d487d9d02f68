//! Started by `scripts/bootdemo`.

fn main() -> std::process::ExitCode {
    glancefs_bench::bootdemo()
}
