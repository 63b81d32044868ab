//! How far a mistaken name is from a known one.
//!
//! An edit distance that lets a known name begin and end at any of its segments, so that
//! `user.push` is as near to `application.provision.user.push` as a name without its prefix
//! should be. Made for error messages: a few hundred names take about a millisecond.

/// A longer name is no typing mistake; the limit bounds the work of one comparison.
const WANTED_BYTES_MAX: usize = 128;

/// How much an edit weighs against a character of the known name that was left out: a name
/// without its prefix (22 characters) must beat an edit in every fourth place or so.
const EDIT_WEIGHT: usize = 8;

/// The distance of `wanted` from `known`, or `None` if they have too little in common.
pub fn distance(wanted: &str, known: &str) -> Option<usize> {
    let wanted = wanted.trim();
    if wanted.is_empty() || wanted.len() > WANTED_BYTES_MAX {
        return None;
    }
    let wanted = wanted.to_lowercase().into_bytes();
    let known = known.to_lowercase().into_bytes();

    // Row by row over `wanted`; a column for each place in `known`. What stands before a
    // segment costs nothing.
    let mut previous: Vec<usize> = Vec::with_capacity(known.len() + 1);
    for place in 0..=known.len() {
        let cost = if is_boundary(&known, place) {
            0
        } else {
            previous[place - 1] + 1
        };
        previous.push(cost);
    }
    let mut current = vec![0; known.len() + 1];
    for (row, byte) in wanted.iter().enumerate() {
        current[0] = row + 1;
        for place in 0..known.len() {
            let replaced = previous[place] + usize::from(known[place] != *byte);
            current[place + 1] = replaced
                .min(previous[place + 1] + 1)
                .min(current[place] + 1);
        }
        std::mem::swap(&mut previous, &mut current);
    }

    let edits = (0..=known.len())
        .filter(|&place| is_boundary(&known, place))
        .map(|place| previous[place])
        .min()?;
    // Beyond a third of the letters it is another word, not a mistaken one.
    (edits * 3 <= wanted.len()).then(|| edits * EDIT_WEIGHT + known.len().abs_diff(wanted.len()))
}

/// Segments begin after, and end before, whatever is neither letter nor digit.
fn is_boundary(name: &[u8], place: usize) -> bool {
    let word = |byte: &u8| byte.is_ascii_alphanumeric() || !byte.is_ascii();
    place == 0 || place == name.len() || !word(&name[place - 1]) || !word(&name[place])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_left_out_cost_less_than_wrong_letters() {
        let whole = distance("user.push", "application.provision.user.push").unwrap();
        assert!(whole < distance("user.pish", "application.provision.user.push").unwrap());
        assert_eq!(distance("user.push", "user.push"), Some(0));
        assert_eq!(distance("", "user.push"), None);
        assert_eq!(distance("session", "user.push"), None);
    }
}
