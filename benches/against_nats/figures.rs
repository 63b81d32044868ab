//! What was measured, and how it is shown: minimum, median, maximum, and ours divided by theirs.
//!
//! Knows nothing of what is measured. The first of a contest is ours.

use std::fmt;
use std::time::Duration;

/// Those who are measured by turns.
#[derive(Debug)]
pub(crate) struct Contest {
    title: String,
    figures: Vec<Figure>,
}

/// What one of them reached.
#[derive(Debug)]
pub(crate) struct Figure {
    name: &'static str,
    values: Vec<f64>,
    cpu: Duration,
    events: u64,
}

impl Contest {
    pub(crate) fn new(title: &str, names: impl IntoIterator<Item = &'static str>) -> Self {
        Self {
            title: title.to_owned(),
            figures: names
                .into_iter()
                .map(|name| Figure {
                    name,
                    values: Vec::new(),
                    cpu: Duration::ZERO,
                    events: 0,
                })
                .collect(),
        }
    }

    /// Whose turn it is, another one first in each repeat.
    pub(crate) fn order(&self, repeat: usize) -> impl Iterator<Item = usize> + use<> {
        let count = self.figures.len();
        (0..count).map(move |turn| (turn + repeat) % count)
    }

    /// What each reached in the last repeat, in the order of the table to come.
    pub(crate) fn last(&self) -> String {
        let values = self
            .figures
            .iter()
            .filter_map(|figure| figure.values.last());
        values
            .map(|value| grouped(*value))
            .collect::<Vec<_>>()
            .join(" | ")
    }

    pub(crate) fn figure(&mut self, place: usize) -> &mut Figure {
        &mut self.figures[place]
    }
}

impl Figure {
    pub(crate) fn add(&mut self, value: f64) {
        self.values.push(value);
    }

    pub(crate) fn add_cpu(&mut self, cpu: Duration, events: u64) {
        self.cpu += cpu;
        self.events += events;
    }

    fn cpu_us(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.events as f64
    }

    fn sorted(&self) -> Vec<f64> {
        sorted(self.values.clone())
    }
}

impl fmt::Display for Contest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{}", self.title)?;
        writeln!(
            f,
            "  {:<36} {:>9} {:>9} {:>9} {:>14} {:>28}",
            "", "min", "median", "max", "server CPU", "ours / theirs (min, max)"
        )?;
        let ours = &self.figures[0];
        for (place, figure) in self.figures.iter().enumerate() {
            let values = figure.sorted();
            write!(
                f,
                "  {:<36} {:>9} {:>9} {:>9} {:>8.2} µs/ev",
                figure.name,
                grouped(percentile(&values, 0)),
                grouped(percentile(&values, 50)),
                grouped(percentile(&values, 100)),
                figure.cpu_us()
            )?;
            if place > 0 {
                // Of the same repeat: what slows the machine for a while slows both.
                let pairs = ours.values.iter().zip(&figure.values);
                let ratios = sorted(pairs.map(|(ours, theirs)| ours / theirs).collect());
                write!(
                    f,
                    " {:>12.2} ({:.2}, {:.2})",
                    percentile(&ratios, 50),
                    percentile(&ratios, 0),
                    percentile(&ratios, 100)
                )?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_unstable_by(f64::total_cmp);
    values
}

/// The value that so many percent of the sorted ones do not exceed.
pub(crate) fn percentile<T: Copy>(sorted: &[T], percent: usize) -> T {
    sorted[(sorted.len() - 1) * percent / 100]
}

/// A whole number with its thousands apart.
pub(crate) fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}
