//! Numbers over time as a line of bars.

/// The heights of a bar.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// The most bars of a line. Of more numbers, neighbours share a bar.
const MAX_BARS: usize = 80;

/// Returns the numbers as a line of bars. The largest is the highest, and one above 0 is above the lowest.
pub(super) fn line(numbers: &[u64]) -> String {
    let shared = numbers.len().div_ceil(MAX_BARS).max(1);
    let sums: Vec<u64> = numbers
        .chunks(shared)
        .map(|some| some.iter().fold(0, |sum: u64, number| sum.saturating_add(*number)))
        .collect();
    let most = sums.iter().max().copied().unwrap_or_default().max(1);
    let bar = |number: &u64| {
        let steps = BARS.len() as u128 - 1;
        let height = (u128::from(*number) * steps).div_ceil(u128::from(most));
        BARS[usize::try_from(height).unwrap_or_default().min(BARS.len() - 1)]
    };
    sums.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_number_is_the_highest_bar() {
        assert_eq!(line(&[0, 1, 50, 100]), "▁▂▅█");
        assert_eq!(line(&[0, 0]), "▁▁");
        assert_eq!(line(&[]), "");
        assert_eq!(line(&[u64::MAX, 1]), "█▂");
        let long: Vec<u64> = (0..1000).collect();
        assert_eq!(line(&long).chars().count(), 77);
    }
}
