//! The `glancefs` program: hands the command line to [`glancefs::cli`] and ends with its exit code.

fn main() -> std::process::ExitCode {
    glancefs::cli::run(std::env::args_os())
}
