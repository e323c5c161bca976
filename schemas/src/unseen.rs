//! Characters that nobody sees. They come along when an address is copied, typed by a
//! phone's keyboard, or wrapped over two lines, and no slug has them.

/// Whether a character is white space or invisible: one that Unicode lets programs leave
/// out where they cannot show it (`Default_Ignorable_Code_Point`), such as a joiner or a
/// variation selector, or the blank Braille pattern.
#[must_use]
pub fn is_unseen(c: char) -> bool {
    c.is_whitespace()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_copied_along_is_unseen_and_letters_are_not() {
        for c in [' ', '\n', '\u{a0}', '\u{200b}', '\u{200d}', '\u{2028}', '\u{fe0f}', '\u{feff}', '\u{e0041}'] {
            assert!(is_unseen(c), "{c:?}");
        }
        for c in ['a', '-', '.', '\0', '\u{e9}', '\u{301}', '\u{2764}', '\u{20e3}', '\u{1f468}'] {
            assert!(!is_unseen(c), "{c:?}");
        }
    }
}
