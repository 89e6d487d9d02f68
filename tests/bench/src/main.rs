//! Started by `scripts/bench`.

fn main() -> std::process::ExitCode {
    glancefs_bench::bench()
}
