//! The options of `glancefs mount` by their names, for what names them outside of a command line: `-o` of mount(8) and the
//! configuration file. Their one definition is [`super::args`].

use clap::{Arg, Command};

use super::args::MountArguments;

/// Below this, the nearest name is no guess but noise: the bound that clap has for its own advice.
const LIKENESS: f64 = 0.7;

/// `glancefs mount` with whatever arguments it has.
pub(super) fn definition() -> Command {
    <MountArguments as clap::Args>::augment_args(Command::new("mount"))
}

/// The options of a mount that a file or mount(8) may give, of `definition`.
pub(super) fn of(definition: &Command) -> impl Iterator<Item = (&str, &Arg)> {
    let given_by_hand_only = ["foreground", "help", "version"];
    definition
        .get_arguments()
        .filter(|option| !option.is_hide_set())
        .filter_map(|option| Some((option.get_long()?, option)))
        .filter(move |(name, _)| !given_by_hand_only.contains(name))
}

/// An option by its name, written with `-` or `_`.
pub(super) fn find<'a>(definition: &'a Command, name: &str) -> Option<(&'a str, &'a Arg)> {
    let wanted = name.replace('_', "-");
    of(definition).find(|(name, _)| *name == wanted)
}

/// What may have been meant by a name that is not known, as advice to be put behind a message; empty when nothing is like it.
pub(super) fn advice<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let wanted = name.replace('-', "_");
    let candidates = known.into_iter().map(|known| known.replace('-', "_"));
    let scored = candidates.map(|known| (strsim::jaro(&wanted, &known), known));
    match scored.max_by(|one, other| one.0.total_cmp(&other.0)) {
        Some((likeness, known)) if likeness > LIKENESS => format!(": did you mean {known}?"),
        _ => String::new(),
    }
}

/// What clap says of a value, without its advice to type `--help`: whoever reads it has written a file.
pub(super) fn in_one_line(error: &clap::Error) -> String {
    let told = error.to_string();
    let lines = told.lines().map(str::trim).take_while(|line| !line.is_empty() && !line.starts_with("Usage"));
    let line = lines.collect::<Vec<_>>().join(" ");
    line.strip_prefix("error: ").map(str::to_owned).unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_found_by_both_spellings_and_internal_ones_by_none() {
        let definition = definition();
        for name in ["cache-dir", "cache_dir", "allow-other", "uid", "endpoint", "verify"] {
            assert!(find(&definition, name).is_some(), "{name}");
        }
        for name in ["daemon", "foreground", "help", "source", "mountpoint", "cachedir", ""] {
            assert!(find(&definition, name).is_none(), "{name}");
        }
    }

    #[test]
    fn the_nearest_name_is_advised_when_there_is_one() {
        let advised = |name: &str| advice(name, ["cache-dir", "cache-size", "allow-other"]);
        assert_eq!(advised("cachedir"), ": did you mean cache_dir?");
        assert_eq!(advised("alow_other"), ": did you mean allow_other?");
        assert_eq!(advised("xyz"), "");
    }
}
