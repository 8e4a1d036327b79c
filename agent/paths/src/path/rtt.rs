//! Round trips by one path, smoothed as in RFC 6298.

use std::time::Duration;

/// Longer round trips count as this long: beyond it a path is of no use, and one of them must not blunt all deadlines.
const LONGEST: Duration = Duration::from_secs(1);
/// A probe is given this much more than the smoothed round trip before it counts as lost, however steady the path was.
const SLACK: Duration = Duration::from_millis(200);
/// It is late, which costs nothing but that packets go by all paths until the next answer, after this much on a steady path ...
const LATE: Duration = Duration::from_millis(100);
/// ... and after this much at most on any: before the path is silent.
const LATE_AT_LAST: Duration = Duration::from_millis(750);

/// Smoothed round trip and its deviation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Rtt(Option<(Duration, Duration)>);

impl Rtt {
    pub(super) fn sample(&mut self, rtt: Duration) {
        self.0 = Some(match self.0 {
            None => (rtt, rtt / 2),
            Some((smooth, deviation)) => ((smooth * 7 + rtt) / 8, (deviation * 3 + smooth.abs_diff(rtt)) / 4),
        });
    }

    pub(super) fn smoothed(&self) -> Option<Duration> {
        self.0.map(|(smooth, _)| smooth)
    }

    /// How long after sending a probe counts as lost (a reply that comes later still counts as a reply).
    pub(super) fn patience(&self) -> Duration {
        let Some((smooth, deviation)) = self.0 else { return LONGEST };
        smooth.min(LONGEST) + (deviation * 4).clamp(SLACK, LONGEST)
    }

    /// How long after sending a probe is late.
    pub(super) fn late(&self) -> Duration {
        let Some((smooth, deviation)) = self.0 else { return LONGEST };
        smooth.min(LONGEST) + (deviation * 4).clamp(LATE, LATE_AT_LAST)
    }

    /// How long after sending without any reply a path is silent: `silence`, and the time a reply takes.
    pub(super) fn silence(&self, silence: Duration) -> Duration {
        silence + self.smoothed().unwrap_or_default().min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smooths_and_stays_patient_within_bounds() {
        let ms = Duration::from_millis;
        let mut rtt = Rtt::default();
        let deadlines = |rtt: &Rtt| [rtt.late(), rtt.patience(), rtt.silence(ms(1000))];
        assert_eq!((rtt.smoothed(), deadlines(&rtt)), (None, [ms(1000); 3]));
        rtt.sample(ms(80));
        assert_eq!((rtt.smoothed(), deadlines(&rtt)), (Some(ms(80)), [ms(240), ms(280), ms(1080)]));
        rtt.sample(ms(160));
        assert_eq!(rtt.smoothed(), Some(ms(90)));
        for _ in 0..1000 {
            rtt.sample(ms(5000));
        }
        assert_eq!(deadlines(&rtt), [ms(1100), ms(1200), ms(2000)]);
        for _ in 0..1000 {
            rtt.sample(ms(1));
        }
        assert!(rtt.smoothed().unwrap() < ms(2), "{rtt:?}");
    }
}
