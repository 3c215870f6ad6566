//! When a failed attempt is repeated.

use std::time::Duration;

use keyward_core::key::Entropy;

/// The pauses after the failed attempts, in seconds: more than a day in all.
const PAUSES: [u64; 7] = [5, 300, 1_800, 7_200, 18_000, 36_000, 36_000];
/// The longest pause that a receiver can ask for.
const LONGEST: Duration = Duration::from_secs(36_000);

/// The pause after an attempt that failed, which may deviate by 10 %, so that receivers do not get all events at
/// once. `failures` is the number of earlier failed attempts, and `wanted` the pause that the receiver asks for.
/// `None` if it was the last attempt.
pub(super) fn pause(
    failures: i64,
    wanted: Option<Duration>,
    entropy: &dyn Entropy,
) -> Option<Duration> {
    let pause = PAUSES.get(usize::try_from(failures).ok()?)?;
    let mut random = [0; 2];
    entropy.fill(&mut random);
    let deviation = f64::from(u16::from_be_bytes(random)) / f64::from(u16::MAX);
    let pause = Duration::from_secs(*pause).mul_f64(0.9 + 0.2 * deviation);
    Some(pause.max(wanted.unwrap_or_default().min(LONGEST)))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(u8);

    impl Entropy for Fixed {
        fn fill(&self, buffer: &mut [u8]) {
            buffer.fill(self.0);
        }
    }

    #[test]
    fn attempts_take_more_than_a_day_and_then_end() {
        for (byte, least, most) in [(0, 24, 26), (255, 26, 31)] {
            let pauses = (0..).map_while(|failures| pause(failures, None, &Fixed(byte)));
            let pauses: Vec<_> = pauses.collect();
            assert_eq!(pauses.len(), 7);
            assert!(pauses.is_sorted());
            let hours = pauses.iter().sum::<Duration>().as_secs() / 3_600;
            assert!((least..most).contains(&hours), "{hours}");
        }
        assert_eq!(pause(-1, None, &Fixed(0)), None);
    }

    #[test]
    fn a_receiver_can_ask_for_a_longer_pause_but_not_for_any() {
        let after = |seconds| pause(0, Some(Duration::from_secs(seconds)), &Fixed(0)).unwrap();
        assert_eq!(after(60), Duration::from_secs(60));
        assert_eq!(after(1), Duration::from_millis(4_500));
        assert_eq!(after(u64::MAX), LONGEST);
    }
}
