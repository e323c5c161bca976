//! The receiver's side of [`sign`](super::sign): whether a webhook comes from
//! clickhook, and if not, which header shows it and what the likely cause is.
//! `clickhook listen` and `clickhook verify` use it; customers' receivers do the same
//! in a few lines of any language.

use std::{fmt, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use http::HeaderMap;
use schemas::Timestamp;
use subtle::ConstantTimeEq;

use super::sign::{ID, SIGNATURE, SIMPLE_SIGNATURE, Signer, TIMESTAMP, VERSION};

/// The distance that a timestamp may have from now, as Standard Webhooks recommends.
pub const TOLERANCE: Duration = Duration::from_secs(300);

/// The mark that some editors and programs put before UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Whether old webhooks are refused, so that a recorded webhook cannot be sent again
/// later (a replay attack).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// Webhooks more than [`TOLERANCE`] away from this time are refused.
    At(Timestamp),
    /// No webhook is too old: for saved ones.
    Ignored,
}

/// The reason why a webhook does not verify.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// A header is missing.
    #[error(
        "the header {0} is missing: something between clickhook and here dropped it, or the sender is not clickhook"
    )]
    Missing(&'static str),
    /// A header has a value of the wrong form.
    #[error("the header {header} is `{given}`, but should be {expected}")]
    Malformed {
        /// The header's name.
        header: &'static str,
        /// The header's value, shortened.
        given: String,
        /// The form that is expected.
        expected: &'static str,
    },
    /// The timestamp is too far from now.
    #[error(
        "{TIMESTAMP} is {} s {}, and {} s are allowed: either this is an old webhook sent again, or a clock is wrong (this one says {now})",
        distance.as_secs(), if *past { "in the past" } else { "in the future" }, TOLERANCE.as_secs()
    )]
    Age {
        /// The distance from now.
        distance: Duration,
        /// Whether the timestamp lies in the past.
        past: bool,
        /// The time of this machine's clock.
        now: Timestamp,
    },
    /// A signature is not the one that the secret and the body give.
    #[error("{header} is {got}, but this secret and this body give {expected}: {cause}")]
    Mismatch {
        /// The header's name.
        header: &'static str,
        /// The beginning of the header's value.
        got: String,
        /// The beginning of the right value.
        expected: String,
        /// The likely cause.
        cause: Cause,
    },
}

/// The likely cause of a wrong signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Only this header was altered: the other signature is right.
    HeaderAltered,
    /// The id or the timestamp was altered: the simple signature, which does not cover
    /// them, is right.
    IdOrTimestampAltered,
    /// A line break was added to the body: without it the body is right.
    LineBreakAdded,
    /// White space was added between the body's tokens: without it the body is right.
    Reformatted,
    /// A byte order mark was put before the body: without it the body is right.
    ByteOrderMark,
    /// The body was parsed and written again with other escapes in its texts: with ours it is
    /// right.
    Rewritten,
    /// The body's bytes were taken for Latin-1 and written as UTF-8.
    Recoded,
    /// There is no body: something read it before.
    NoBody,
    /// The body is the name of an object instead of its content.
    ObjectName,
    /// The secret or the body is wrong: no other cause was found.
    SecretOrBody,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HeaderAltered => "the other signature is right, so only this header was altered on the way",
            Self::IdOrTimestampAltered => {
                "X-Webhook-Signature is right, and with it the secret and the body; webhook-id or webhook-timestamp was altered on the way"
            }
            Self::LineBreakAdded => {
                "the secret is right, but a line break was added to the body; verify the bytes as they came (`curl --data-binary`, not `-d`)"
            }
            Self::Reformatted => {
                "the secret is right, but the JSON was reformatted with other white space; verify the bytes as they came, before parsing"
            }
            Self::ByteOrderMark => {
                "the secret is right, but a byte order mark (EF BB BF) was put before the body; save and verify the bytes as they came"
            }
            Self::Rewritten => {
                "the secret is right, but the JSON was parsed and written again with other escapes, as PHP (`\\/`), Python (`\\u00e9`) and Go (`\\u0026`) write it; verify the bytes as they came, before parsing"
            }
            Self::Recoded => {
                "the secret is right, but the body was read as Latin-1 and written as UTF-8; verify the bytes as they came"
            }
            Self::NoBody => {
                "the body is empty, and clickhook never sends that: most likely something read the request's stream before"
            }
            Self::ObjectName => {
                "the body is `[object Object]`: a parsed object was turned into text; verify the bytes as they came, before parsing"
            }
            Self::SecretOrBody => {
                "most likely this is another endpoint's secret (each endpoint has its own, shown once when it is created or rotated), or one that a rotation has replaced; else the body was changed, as by parsing it and serializing it again"
            }
        })
    }
}

/// Checks both signatures and the timestamp of a webhook, under each of these secrets.
///
/// While a rotation overlaps, there are several Standard Webhooks signatures, and
/// `X-Webhook-Signature` is that of the oldest secret: a receiver that knows only a newer one
/// cannot check it, and need not.
///
/// # Errors
/// When a header is missing or wrong, with the likely cause.
pub fn verify(signers: &[Signer], headers: &HeaderMap, body: &[u8], age: Age) -> Result<(), VerifyError> {
    let id = header(headers, ID)?;
    let timestamp = header(headers, TIMESTAMP)?;
    // Several lines with one name mean the same as one line.
    let signatures: Vec<&str> = headers.get_all(SIGNATURE).iter().filter_map(|value| value.to_str().ok()).collect();
    if signatures.is_empty() {
        return Err(VerifyError::Missing(SIGNATURE));
    }
    let signatures = &signatures.join(" ");
    let simple = header(headers, SIMPLE_SIGNATURE)?;
    let seconds: i64 = timestamp.parse().map_err(|_| VerifyError::Malformed {
        header: TIMESTAMP,
        given: shorten(timestamp),
        expected: "Unix seconds",
    })?;
    let count = signatures.split(' ').filter(|signature| signature.starts_with(VERSION)).count();
    if count == 0 {
        return Err(VerifyError::Malformed {
            header: SIGNATURE,
            given: shorten(signatures),
            expected: "`v1,` and base64, several separated by spaces",
        });
    }
    let standard_right = |body: &[u8]| {
        let given = || {
            let texts = signatures.split(' ').filter_map(|signature| signature.strip_prefix(VERSION));
            texts.filter_map(|text| BASE64_STANDARD.decode(text).ok())
        };
        signers.iter().any(|signer| {
            let expected = signer.standard_bytes(id, timestamp, body);
            given().any(|given| given.ct_eq(&expected).into())
        })
    };
    let simple_right = |body: &[u8]| {
        let Ok(given) = hex::decode(simple) else { return false };
        signers.iter().any(|signer| bool::from(given.ct_eq(signer.simple_bytes(body).as_slice())))
    };
    let expected = |signature: &dyn Fn(&Signer) -> String| {
        signers.first().map_or_else(String::new, |signer| shorten(&signature(signer)))
    };
    match (standard_right(body), simple_right(body)) {
        (true, true) => check_age(seconds, age),
        (true, false) if count > 1 => check_age(seconds, age),
        (true, false) => Err(VerifyError::Mismatch {
            header: SIMPLE_SIGNATURE,
            got: shorten(simple),
            expected: expected(&|signer| signer.simple(body)),
            cause: Cause::HeaderAltered,
        }),
        (false, simple) => {
            let right = |body: &[u8]| standard_right(body) || simple_right(body);
            let cause = if simple { Cause::IdOrTimestampAltered } else { cause_in_body(body, right) };
            Err(VerifyError::Mismatch {
                header: SIGNATURE,
                got: shorten(signatures),
                expected: expected(&|signer| signer.standard(id, seconds, body)),
                cause,
            })
        }
    }
}

/// Returns the change of the body that explains a wrong signature. `right` says whether the
/// signatures fit other bytes.
fn cause_in_body(body: &[u8], right: impl Fn(&[u8]) -> bool) -> Cause {
    match body.trim_ascii() {
        b"" => return Cause::NoBody,
        b"[object Object]" => return Cause::ObjectName,
        _ => {}
    }
    let marked = body.strip_prefix(BYTE_ORDER_MARK);
    let unmarked = marked.unwrap_or(body);
    let compact = without_white_space(unmarked);
    if marked.is_some_and(&right) {
        Cause::ByteOrderMark
    } else if right(unmarked.trim_ascii_end()) {
        Cause::LineBreakAdded
    } else if right(&compact) {
        Cause::Reformatted
    } else if with_our_escapes(&compact).is_some_and(|body| right(&body)) {
        Cause::Rewritten
    } else if as_latin1(unmarked).is_some_and(|body| right(&body)) {
        Cause::Recoded
    } else {
        Cause::SecretOrBody
    }
}

fn check_age(seconds: i64, age: Age) -> Result<(), VerifyError> {
    let Age::At(now) = age else { return Ok(()) };
    let distance = Duration::from_secs(now.as_secs().abs_diff(seconds));
    if distance <= TOLERANCE { Ok(()) } else { Err(VerifyError::Age { distance, past: seconds < now.as_secs(), now }) }
}

fn header<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<&'a str, VerifyError> {
    headers.get(name).and_then(|value| value.to_str().ok()).ok_or(VerifyError::Missing(name))
}

/// Shortens a signature: enough to compare by eye, too little to use.
fn shorten(text: &str) -> String {
    const KEPT: usize = 12;
    let mut short: String = text.chars().take(KEPT).collect();
    if text.chars().nth(KEPT).is_some() {
        short.push('…');
    }
    short
}

/// Returns compact JSON with each text escaped as clickhook escapes it; nothing where a
/// text is not one.
fn with_our_escapes(json: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(json.len());
    let mut rest = json;
    while let Some(start) = rest.iter().position(|byte| *byte == b'"') {
        let (before, text) = rest.split_at(start);
        out.extend_from_slice(before);
        let mut texts = serde_json::Deserializer::from_slice(text).into_iter::<String>();
        let parsed = texts.next()?.ok()?;
        let length = texts.byte_offset();
        serde_json::to_writer(&mut out, &parsed).ok()?;
        rest = &text[length..];
    }
    out.extend_from_slice(rest);
    Some(out)
}

/// Returns the bytes that UTF-8 text stands for as Latin-1; nothing where the text has other
/// characters.
fn as_latin1(text: &[u8]) -> Option<Vec<u8>> {
    str::from_utf8(text).ok()?.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect()
}

/// Returns JSON without the white space between its tokens.
fn without_white_space(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len());
    let mut in_text = false;
    let mut escaped = false;
    for &byte in json {
        if !in_text && byte.is_ascii_whitespace() {
            continue;
        }
        if byte == b'"' && !escaped {
            in_text = !in_text;
        }
        escaped = in_text && byte == b'\\' && !escaped;
        out.push(byte);
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use service::secret::{self, Secret};

    use super::*;

    const BODY: &str = r#"{"id":"evt_1","message":"a \"b\\","n":[1,2]}"#;
    const NOW: Timestamp = Timestamp::from_millis(1_770_301_425_120);

    fn signer() -> Signer {
        Signer::new(&Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned())).unwrap()
    }

    fn signed(body: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ID, "evt_1".parse().unwrap());
        headers.insert(TIMESTAMP, NOW.as_secs().to_string().parse().unwrap());
        headers.insert(SIGNATURE, signer().standard("evt_1", NOW.as_secs(), body.as_bytes()).parse().unwrap());
        headers.insert(SIMPLE_SIGNATURE, signer().simple(body.as_bytes()).parse().unwrap());
        headers
    }

    fn cause(headers: &HeaderMap, body: &str) -> Cause {
        match verify(&[signer()], headers, body.as_bytes(), Age::At(NOW)) {
            Err(VerifyError::Mismatch { cause, .. }) => cause,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_right_signature_of_several_is_enough() {
        let mut headers = signed(BODY);
        let both = format!("v1,bm9wZQ== {}", headers[SIGNATURE].to_str().unwrap());
        headers.insert(SIGNATURE, both.parse().unwrap());
        assert_eq!(verify(&[signer()], &headers, BODY.as_bytes(), Age::At(NOW)), Ok(()));
    }

    #[test]
    fn during_a_rotation_either_secret_verifies() {
        let new = Signer::new(&secret::mint()).unwrap();
        let mut headers = signed(BODY);
        let both = format!(
            "{} {}",
            new.standard("evt_1", NOW.as_secs(), BODY.as_bytes()),
            headers[SIGNATURE].to_str().unwrap()
        );
        headers.insert(SIGNATURE, both.parse().unwrap());
        let verified = |signers: &[Signer]| verify(signers, &headers, BODY.as_bytes(), Age::At(NOW)).is_ok();
        assert!(verified(&[signer()]), "the old one");
        assert!(verified(std::slice::from_ref(&new)), "the new one");
        assert!(verified(&[new, signer()]));
        assert!(!verified(&[Signer::new(&secret::mint()).unwrap()]));
        assert!(!verified(&[]));
    }

    #[test]
    fn two_lines_of_signatures_are_one() {
        let mut headers = signed(BODY);
        let right = headers[SIGNATURE].clone();
        headers.insert(SIGNATURE, "v1,bm9wZQ==".parse().unwrap());
        headers.append(SIGNATURE, right);
        assert_eq!(verify(&[signer()], &headers, BODY.as_bytes(), Age::At(NOW)), Ok(()));
    }

    #[test]
    fn what_was_done_to_the_body_is_found() {
        let body = r#"{"url":"https://a.example/?b=1&c=2","city":"Zürich"}"#;
        let headers = signed(body);
        assert_eq!(cause(&headers, &format!("\u{feff}{body}")), Cause::ByteOrderMark);
        assert_eq!(cause(&headers, &body.replace('/', "\\/")), Cause::Rewritten);
        assert_eq!(cause(&headers, &body.replace('ü', "\\u00fc").replace("\":", "\": ")), Cause::Rewritten);
        assert_eq!(cause(&headers, &body.replace('&', "\\u0026")), Cause::Rewritten);
        assert_eq!(cause(&headers, &body.replace('ü', "Ã¼")), Cause::Recoded);
        assert_eq!(cause(&headers, ""), Cause::NoBody);
        assert_eq!(cause(&headers, "[object Object]"), Cause::ObjectName);
        assert_eq!(cause(&headers, "{\"a\":\"\\"), Cause::SecretOrBody);
    }

    #[test]
    fn a_missing_or_malformed_header_is_named() {
        for name in [ID, TIMESTAMP, SIGNATURE, SIMPLE_SIGNATURE] {
            let mut headers = signed(BODY);
            headers.remove(name);
            assert_eq!(verify(&[signer()], &headers, BODY.as_bytes(), Age::Ignored), Err(VerifyError::Missing(name)));
        }
        for (name, value) in [(TIMESTAMP, "today"), (SIGNATURE, "sha256=ab")] {
            let mut headers = signed(BODY);
            headers.insert(name, value.parse().unwrap());
            let fault = verify(&[signer()], &headers, BODY.as_bytes(), Age::Ignored).unwrap_err();
            assert!(matches!(fault, VerifyError::Malformed { header, .. } if header == name), "{fault}");
        }
    }

    #[test]
    fn age_counts_both_ways_unless_ignored() {
        let headers = signed(BODY);
        let at =
            |ms| verify(&[signer()], &headers, BODY.as_bytes(), Age::At(Timestamp::from_millis(NOW.as_millis() + ms)));
        assert_eq!(at(300_000), Ok(()));
        assert!(at(302_000).unwrap_err().to_string().contains("in the past"));
        assert!(at(-302_000).unwrap_err().to_string().contains("in the future"));
        assert_eq!(verify(&[signer()], &headers, BODY.as_bytes(), Age::Ignored), Ok(()));
    }

    #[test]
    fn the_likely_cause_is_found() {
        let headers = signed(BODY);
        assert_eq!(cause(&headers, &format!("{BODY}\n")), Cause::LineBreakAdded);
        let pretty = BODY.replace(':', ": ").replace(',', ",\n  ");
        assert_eq!(cause(&headers, &pretty), Cause::Reformatted);
        assert_eq!(cause(&headers, &BODY.replace("evt_1", "evt_2")), Cause::SecretOrBody);
        let mut moved = signed(BODY);
        moved.insert(ID, "evt_2".parse().unwrap());
        assert_eq!(cause(&moved, BODY), Cause::IdOrTimestampAltered);
        let mut altered = signed(BODY);
        altered.insert(SIMPLE_SIGNATURE, "00".parse().unwrap());
        assert_eq!(cause(&altered, BODY), Cause::HeaderAltered);
        let other = Signer::new(&secret::mint()).unwrap();
        let fault =
            verify(std::slice::from_ref(&other), &headers, BODY.as_bytes(), Age::At(NOW)).unwrap_err().to_string();
        assert!(fault.contains("another endpoint's secret"), "{fault}");
        assert!(!fault.contains(headers[SIGNATURE].to_str().unwrap()), "{fault}");
    }

    proptest! {
        #[test]
        fn what_is_signed_verifies_and_what_is_altered_does_not(body in ".{0,200}", at in any::<prop::sample::Index>()) {
            let headers = signed(&body);
            prop_assert_eq!(verify(&[signer()], &headers, body.as_bytes(), Age::At(NOW)), Ok(()));
            if !body.is_empty() {
                let mut altered = body.into_bytes();
                let at = at.index(altered.len());
                altered[at] ^= 1;
                prop_assert!(verify(&[signer()], &headers, &altered, Age::At(NOW)).is_err());
            }
        }
    }
}
