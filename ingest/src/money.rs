//! Amounts of money as affiliate networks write them: decimals, which become
//! whole minor units, exactly or rounded.

use iso_currency::Currency;
use schemas::conversion::Amount;

/// The largest amount that every receiver reads exactly: JavaScript's numbers end here.
pub(crate) const LARGEST: i64 = 1 << 53;

/// Reads the ISO 4217 code of a currency, in upper or lower case.
///
/// # Errors
/// In words, when there is no such currency.
pub(crate) fn currency(code: &str) -> Result<Currency, String> {
    // The crate's own reading is more lenient than ISO 4217.
    let letters = code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_alphabetic());
    letters.then(|| Currency::from_code(&code.to_ascii_uppercase())).flatten().ok_or_else(|| {
        let code: String = code.chars().take(16).collect();
        format!("`{code}` is no currency: must be an ISO 4217 code, such as EUR")
    })
}

/// Reads an amount in `currency`, in minor units: `12.5` in EUR is 1250. An amount with
/// more decimals than the currency has is rounded, a half away from zero; then the answer
/// says that the amount is not exact.
///
/// # Errors
/// In words, when the text is no decimal, or the amount is too large.
pub(crate) fn rounded(text: &str, currency: Currency) -> Result<(Amount, bool), String> {
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (sign, unsigned) = match text.strip_prefix('-') {
        Some(unsigned) => (-1, unsigned),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    if !digits(whole) || !digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return Err("is no amount: must be a decimal with a point, such as 12.50".to_owned());
    }
    let code = currency.code();
    let places = usize::from(currency.exponent().unwrap_or_default());
    let fraction = fraction.trim_end_matches('0');
    // Only digits, so every place is a character.
    let (kept, rest) = fraction.split_at(places.min(fraction.len()));
    let up = i64::from(rest.bytes().next().is_some_and(|digit| digit >= b'5'));
    // The leading zero keeps a number of nothing but zeros readable.
    let minor: Option<i64> = format!("0{whole}{kept:0<places$}").parse().ok();
    match minor.and_then(|minor| minor.checked_add(up)).filter(|minor| *minor <= LARGEST) {
        Some(minor) => Ok((Amount { value: sign * minor, currency: code.to_owned() }, rest.is_empty())),
        None => Err(format!("is too large: {code} ends at {LARGEST} minor units")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_amount_is_read_or_refused() {
        for (text, code, expected) in [
            ("12.5", "EUR", Some(1250)),
            ("12", "EUR", Some(1200)),
            ("0.07", "USD", Some(7)),
            (".5", "USD", Some(50)),
            ("5.", "USD", Some(500)),
            ("0", "USD", Some(0)),
            ("0.00", "USD", Some(0)),
            ("000.10", "USD", Some(10)),
            ("-3.20", "USD", Some(-320)),
            ("+3.20", "USD", Some(320)),
            ("1.500000", "USD", Some(150)),
            ("100", "JPY", Some(100)),
            ("100.00", "JPY", Some(100)),
            ("1.234", "KWD", Some(1234)),
            ("90071992547409.92", "USD", Some(LARGEST)),
            ("90071992547409.93", "USD", None),
            ("99999999999999999999999999", "USD", None),
            ("1.005", "USD", Some(101)),
            ("-1.005", "USD", Some(-101)),
            ("1.0049", "USD", Some(100)),
            ("0.0035", "USD", Some(0)),
            ("0.5", "JPY", Some(1)),
            ("90071992547409.925", "USD", None),
            ("12,50", "EUR", None),
            ("1e3", "USD", None),
            ("", "USD", None),
            (".", "USD", None),
            ("-", "USD", None),
            ("--1", "USD", None),
            ("1.2.3", "USD", None),
            (" 1", "USD", None),
            ("\u{661}", "USD", None),
            ("NaN", "USD", None),
        ] {
            let found = rounded(text, currency(code).unwrap()).map(|(amount, _)| amount.value);
            assert_eq!(found.clone().ok(), expected, "{text:?} {code}: {found:?}");
        }
    }

    #[test]
    fn a_rounded_amount_says_so() {
        let exact = |text| rounded(text, Currency::USD).unwrap().1;
        assert!(exact("1.50") && exact("1.5000") && exact("1"));
        assert!(!exact("1.001") && !exact("0.0035"));
    }

    #[test]
    fn a_currency_is_a_code_in_either_case() {
        for code in ["EUR", "eur", "Eur"] {
            assert_eq!(currency(code).unwrap().code(), "EUR");
        }
        for wrong in ["", "EURO", "E", "ABC", "\u{20ac}"] {
            assert!(currency(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn cents_written_out_read_back(cents in 0..=LARGEST) {
            let text = format!("{}.{:02}", cents / 100, cents % 100);
            let (amount, exact) = rounded(&text, Currency::USD).unwrap();
            prop_assert_eq!((amount.value, exact), (cents, true));
        }
    }
}
