//! The samples of a text in the OpenMetrics format.

/// One value of a metric.
pub(crate) struct Sample {
    name: String,
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) value: f64,
}

/// All values at one moment.
pub struct Samples(Vec<Sample>);

impl Samples {
    /// Reads `text`; a line that is no sample is left out.
    pub fn read(text: &str) -> Self {
        Self(text.lines().filter_map(sample).collect())
    }

    /// The samples of `name`.
    pub(crate) fn of(&self, name: &str) -> impl Iterator<Item = &Sample> {
        self.0.iter().filter(move |sample| sample.name == name)
    }

    /// The values of the label `label` of the samples of `name`.
    pub fn labels(&self, name: &str, label: &str) -> impl Iterator<Item = &str> {
        self.of(name).filter_map(move |sample| sample.label(label))
    }

    /// The sum of the samples of `name` that have all of these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |sample: &&Sample| {
            labels
                .iter()
                .all(|(label, value)| sample.label(label) == Some(value))
        };
        let found = self.of(name).filter(has);
        found.map(|sample| sample.value).sum()
    }

    /// The upper bound of the bucket with the quantile `q` of what the histogram `name` has counted since
    /// `before`; `None` if it has counted nothing.
    pub fn quantile(&self, before: &Self, name: &str, q: f64) -> Option<f64> {
        let bucket = format!("{name}_bucket");
        let mut counts: Vec<_> = self
            .of(&bucket)
            .filter_map(|sample| {
                let le = sample.label("le")?;
                let counted = sample.value - before.sum(&bucket, &[("le", le)]);
                // Rust reads `+Inf`, too.
                Some((le.parse::<f64>().ok()?, counted))
            })
            .collect();
        counts.sort_by(|a, b| a.0.total_cmp(&b.0));
        let total = counts.last()?.1;
        let is_reached = |&&(_, counted): &&(f64, f64)| counted >= q * total;
        let found = counts.iter().find(is_reached);
        found.filter(|_| total > 0.0).map(|(le, _)| *le)
    }
}

impl Sample {
    pub(crate) fn label(&self, name: &str) -> Option<&str> {
        let label = self.labels.iter().find(|(known, _)| known == name);
        label.map(|(_, value)| value.as_str())
    }
}

/// `name{label="value",...} 1.5`; other lines are comments. No label of Keyward holds a quote.
fn sample(line: &str) -> Option<Sample> {
    let (name, value) = line.rsplit_once(' ').filter(|_| !line.starts_with('#'))?;
    let (name, labels) = name.split_once('{').unwrap_or((name, ""));
    let labels = labels.trim_end_matches('}').split("\",");
    let labels = labels.filter_map(|label| {
        let (name, value) = label.split_once("=\"")?;
        Some((name.to_owned(), value.trim_end_matches('"').to_owned()))
    });
    Some(Sample {
        name: name.to_owned(),
        labels: labels.collect(),
        value: value.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "\
# TYPE wait histogram
wait_bucket{le=\"0.1\"} 5
wait_bucket{le=\"1.0\"} 5
wait_bucket{le=\"+Inf\"} 5
";
    const NOW: &str = "\
# TYPE calls counter
calls_total{cache=\"key\",outcome=\"hit\"} 3
calls_total{cache=\"key\",outcome=\"miss\"} 2
calls_total{cache=\"token\",outcome=\"hit\"} 10
fresh 1
wait_bucket{le=\"0.1\"} 6
wait_bucket{le=\"1.0\"} 8
wait_bucket{le=\"+Inf\"} 9
# EOF
";

    #[test]
    fn samples_are_summed_by_their_labels() {
        let now = Samples::read(NOW);
        assert_eq!(now.sum("calls_total", &[]), 15.0);
        assert_eq!(now.sum("calls_total", &[("cache", "key")]), 5.0);
        let labels = [("cache", "key"), ("outcome", "hit")];
        assert_eq!(now.sum("calls_total", &labels), 3.0);
        assert_eq!(now.sum("fresh", &[]), 1.0);
        assert_eq!(now.sum("calls", &[]), 0.0);
    }

    #[test]
    fn a_quantile_is_of_what_was_counted_meanwhile() {
        let (now, before) = (Samples::read(NOW), Samples::read(BEFORE));
        assert_eq!(now.quantile(&before, "wait", 0.25), Some(0.1));
        assert_eq!(now.quantile(&before, "wait", 0.5), Some(1.0));
        assert_eq!(now.quantile(&before, "wait", 0.99), Some(f64::INFINITY));
        assert_eq!(now.quantile(&now, "wait", 0.5), None);
        assert_eq!(now.quantile(&before, "none", 0.5), None);
    }
}
