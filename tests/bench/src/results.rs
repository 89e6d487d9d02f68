//! All samples of a run, and the ratios between them.

use std::collections::BTreeMap;

use crate::cases::Phase;
use crate::contender::Contender;
use crate::meter::Sample;
use crate::site::Place;

/// Samples by where, what, who and round.
#[derive(Default)]
pub struct Results {
    samples: BTreeMap<(Place, Phase, Contender), BTreeMap<usize, Sample>>,
    failures: Vec<String>,
    left_out: Vec<String>,
}

/// The middle of several values, and how far they lie apart.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The most.
    pub most: f64,
}

impl Spread {
    /// Of these; none of none.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Some(Self { median, least, most })
    }
}

impl Results {
    /// Adds what a round gave.
    pub fn add(&mut self, place: Place, phase: Phase, contender: Contender, round: usize, sample: Sample) {
        self.samples.entry((place, phase, contender)).or_default().insert(round, sample);
    }

    /// Notes that a contender could not do it. That of glancefs is a failure of the run, that of a peer is not.
    pub fn fail(&mut self, contender: Contender, what: String) {
        if contender == Contender::Glancefs {
            self.failures.push(what);
        } else {
            self.leave_out(what);
        }
    }

    /// Notes what was not measured, and why.
    pub fn leave_out(&mut self, what: String) {
        eprintln!("left out: {what}");
        self.left_out.push(what);
    }

    /// What glancefs failed to do.
    pub fn failures(&self) -> &[String] {
        &self.failures
    }

    /// What was not measured.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// Where something was measured.
    pub fn places(&self) -> Vec<Place> {
        let mut places: Vec<_> = self.samples.keys().map(|(place, ..)| *place).collect();
        places.dedup();
        places
    }

    /// Rows of a place: what was measured for whom.
    pub fn rows(&self, place: Place) -> impl Iterator<Item = (Phase, Contender)> {
        self.samples
            .keys()
            .filter(move |key| key.0 == place)
            .map(|(_, phase, contender)| (*phase, *contender))
    }

    /// A figure of a row over its rounds.
    pub fn figure(
        &self,
        place: Place,
        phase: Phase,
        contender: Contender,
        figure: impl Fn(&Sample) -> f64,
    ) -> Option<Spread> {
        Spread::of(self.samples.get(&(place, phase, contender))?.values().map(figure).collect())
    }

    /// How many times as fast as `other` a contender is: the ratio within each round. `other` may be in another phase.
    pub fn speed(
        &self,
        place: Place,
        (phase, contender): (Phase, Contender),
        (other_phase, other): (Phase, Contender),
    ) -> Option<Spread> {
        let others = self.samples.get(&(place, other_phase, other))?;
        let ours = self.samples.get(&(place, phase, contender))?;
        let ratio = |(round, sample): (&usize, &Sample)| {
            Some(others.get(round)?.time.as_secs_f64() / sample.time.as_secs_f64())
        };
        Spread::of(ours.iter().filter_map(ratio).collect())
    }

    /// The largest value of a figure in all that a contender did.
    pub fn largest(&self, contender: Contender, figure: impl Fn(&Sample) -> u64) -> Option<u64> {
        let rows = self.samples.iter().filter(|(key, _)| key.2 == contender);
        rows.flat_map(|(_, rounds)| rounds.values()).map(figure).max()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::link::LinkKind;
    use crate::server::ServerKind;

    const PLACE: Place = Place { server: ServerKind::Nginx, link: LinkKind::Direct };
    const COLD: Phase = Phase::SequentialCold;

    fn sample(seconds: u64) -> Sample {
        Sample { time: Duration::from_secs(seconds), ..Sample::default() }
    }

    #[test]
    fn a_ratio_is_made_within_a_round_and_its_median_counts() {
        let mut results = Results::default();
        // The machine was four times as slow in the second round; in the third glancefs did not take part.
        for (round, (ours, other)) in [(2, 4), (8, 16), (0, 1), (3, 3)].into_iter().enumerate() {
            if ours > 0 {
                results.add(PLACE, COLD, Contender::Glancefs, round, sample(ours));
            }
            results.add(PLACE, COLD, Contender::Curl, round, sample(other));
        }
        let ratio = results.speed(PLACE, (COLD, Contender::Glancefs), (COLD, Contender::Curl)).unwrap();
        assert_eq!((ratio.least, ratio.median, ratio.most), (1.0, 2.0, 2.0));
        assert!(results.speed(PLACE, (COLD, Contender::Glancefs), (COLD, Contender::Rclone)).is_none());
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        assert_eq!(Spread::of(vec![9.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert!(Spread::of(Vec::new()).is_none());
    }
}
